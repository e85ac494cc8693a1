"""Trains the demo checkpoint from random weights on pages drawn as it goes. One GPU; stops by the clock;
resumes.

    python -m tools.demo_model.train --data tools/demo_model/.data --out runs/demo --seconds 1080

Writes into --out, every minute: average-0.safetensors and average-1.safetensors (the averaged weights in
bf16, for export.py), curve.jsonl (the learning curve), and --state (everything needed to go on, which
--resume reads).
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import random
import shutil
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from tools.demo_model.batches import Batch, BatchShape, BatchSource, PageMix
from tools.demo_model.curriculum import Curriculum, average_keep, rate, rough_share
from tools.demo_model.export import read_weights
from tools.demo_model.model import DemoConfig
from tools.demo_model.pages import LEVELS
from tools.demo_model.prompts import PromptTokens
from tools.demo_model.steps import DeviceBatch, Trainer
from tools.demo_model.text import ALPHABET
from tools.demo_model.widen import with_key_value_heads

LOG_EVERY, PRINT_EVERY = 50, 500  # steps
SAVE_EVERY = 60.0  # seconds
ATTENTION = {
    "flash": [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH],
    "cudnn": [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.MATH],
}
AHEAD = 4  # batches waiting on the device
KEPT = 240  # batches per level that stay on the device, to be read again when the workers are behind


@dataclass
class Clock:
    """Steps, pages and seconds of training, over all calls that made up the run."""

    steps: int = 0
    pages: int = 0
    seconds: float = 0.0


class Feeder:
    """A thread that brings batches to the device ahead of time.

    When none is ready, an earlier one comes again (with other paper, noise and blur), so that the GPU
    never waits.
    """

    def __init__(self, source: BatchSource, mix: tuple[float, ...], device: torch.device) -> None:
        self.source, self.mix, self.device = source, mix, device
        self.kept: list[deque[DeviceBatch]] = [deque(maxlen=KEPT) for _ in mix]
        self.dice = random.Random(0)
        self.again = 0
        self.ready: queue.Queue[tuple[DeviceBatch, torch.cuda.Event | None]] = queue.Queue(AHEAD)
        self.failure: BaseException | None = None
        self.stopping = False
        self.thread = threading.Thread(target=self.work, daemon=True)
        self.thread.start()

    def work(self) -> None:
        """Until the end of the process, or until the workers fail."""
        stream = torch.cuda.Stream() if self.device.type == "cuda" else None
        try:
            while not self.stopping:
                self.put(self.bring(self.source.get(), stream))
        except BaseException as failure:  # handed over to the training loop
            self.failure = failure

    def put(self, item: tuple[DeviceBatch, torch.cuda.Event | None]) -> None:
        """Waits for room, but not for ever."""
        while not self.stopping:
            try:
                self.ready.put(item, timeout=0.5)
            except queue.Full:
                continue
            return

    def bring(
        self, batch: Batch, stream: torch.cuda.Stream | None
    ) -> tuple[DeviceBatch, torch.cuda.Event | None]:
        """Pinned memory, then a copy on a stream of its own; the event says when it has arrived."""
        arrays = (batch.ink, batch.tokens, batch.answer_len, batch.token_xy, batch.patch_chars)
        tensors = [torch.from_numpy(array) for array in arrays]
        if stream is None:
            return DeviceBatch(batch.level, int(batch.prompt_kind[0]), *tensors), None
        with torch.cuda.stream(stream):
            tensors = [tensor.pin_memory().to(self.device, non_blocking=True) for tensor in tensors]
            event = torch.cuda.Event()
            event.record(stream)
        return DeviceBatch(batch.level, int(batch.prompt_kind[0]), *tensors), event

    def get(self) -> DeviceBatch:
        """A new batch if one is ready, else one of the kept ones; waits only while there are none."""
        while True:
            if self.failure is not None:
                raise RuntimeError("the page workers stopped") from self.failure
            level = self.dice.choices(range(len(self.mix)), self.mix)[0]
            try:
                batch, event = self.ready.get(timeout=0.001 if self.kept[level] else 0.5)
                break
            except queue.Empty:
                if self.kept[level]:
                    self.again += 1
                    return self.dice.choice(self.kept[level])
        if event is not None:
            torch.cuda.current_stream().wait_event(event)
            for tensor in batch.tensors():
                tensor.record_stream(torch.cuda.current_stream())
        self.kept[batch.level].append(batch)
        return batch

    def set_mix(self, mix: tuple[float, ...]) -> None:
        """Draws levels by these shares from now on."""
        self.mix = mix
        self.source.set_weights(mix)

    def stop(self) -> None:
        """Ends the thread."""
        self.stopping = True
        self.thread.join()


class Keeper:
    """Writes the averaged weights, the curve and the state, in the background, each file whole."""

    def __init__(self, out: Path, state: Path) -> None:
        self.out, self.state = out, state
        self.out.mkdir(parents=True, exist_ok=True)
        self.state.parent.mkdir(parents=True, exist_ok=True)
        self.thread: threading.Thread | None = None

    def save(self, trainer: Trainer, clock: Clock, curriculum: Curriculum, wait: bool = False) -> None:
        """Copies everything off the device now and writes it while training goes on."""
        optimiser = trainer.optimiser.state()
        named = {
            name: value.to(torch.bfloat16).cpu().clone()
            for name, value in trainer.optimiser.named(trainer.optimiser.average).items()
            if not name.startswith("helpers.")
        }
        whole = {"optimiser": optimiser, "clock": asdict(clock), "curriculum": asdict(curriculum)}
        self.wait()
        self.thread = threading.Thread(target=self.write, args=(named, whole))
        self.thread.start()
        if wait:
            self.wait()

    def write(self, named: dict[str, Tensor], whole: dict[str, Any]) -> None:
        """Writes beside and renames, so that a killed run leaves whole files."""
        names = sorted(named)
        for number in (0, 1):
            target = self.out / f"average-{number}.safetensors"
            beside = self.state.parent / target.name
            save_file({name: named[name] for name in half(names, named, number)}, beside)
            shutil.move(beside, target)
        beside = self.state.with_suffix(".new")
        torch.save(whole, beside)
        os.replace(beside, self.state)

    def wait(self) -> None:
        """For the last save."""
        if self.thread is not None:
            self.thread.join()


def half(names: list[str], named: dict[str, Tensor], number: int) -> list[str]:
    """The names of the first (0) or second (1) half of the weights, by size."""
    total, seen, first = sum(value.numel() for value in named.values()), 0, []
    for name in names:
        seen += named[name].numel()
        if seen <= total / 2:
            first.append(name)
    return first if number == 0 else [name for name in names if name not in set(first)]


def log_line(trainer: Trainer, clock: Clock, curriculum: Curriculum, again: int) -> dict[str, Any]:
    """One line of the curve: means per level since the last one."""
    levels = {}
    for number, row in enumerate(trainer.read_log()):
        if row["steps"]:
            curriculum.observe(number, row["accuracy"])
            levels[str(number)] = {name: round(value, 4) for name, value in row.items()}
    return {**asdict(clock), "unlocked": curriculum.unlocked, "again": again, "levels": levels}


def resume(options: argparse.Namespace, trainer: Trainer) -> tuple[Clock, Curriculum]:
    """Where the last call stopped, if --resume and its state are there; averaged weights if --start-from
    is given."""
    clock, curriculum = Clock(), Curriculum(len(LEVELS))
    if options.resume and options.state.exists():
        whole = torch.load(options.state, map_location="cpu", weights_only=True)
        trainer.optimiser.restore(whole["optimiser"])
        return Clock(**whole["clock"]), Curriculum(**whole["curriculum"])
    if options.start_from:
        named = with_key_value_heads(read_weights(options.start_from, trainer.config), trainer.config)
        for flat in (trainer.optimiser.master, trainer.optimiser.average):
            views = trainer.optimiser.named(flat)
            for name, value in named.items():
                views[name].copy_(value)
        trainer.optimiser.weights.copy_(trainer.optimiser.master)
        clock.seconds, curriculum.unlocked = options.start_seconds, len(LEVELS)
    return clock, curriculum


@contextmanager
def feeding(
    options: argparse.Namespace, mix: tuple[float, ...], seed: int, device: torch.device
) -> Iterator[Feeder]:
    """Workers and the feeder, stopped at the end."""
    source = BatchSource(
        options.data,
        options.tokenizer,
        weights=mix,
        workers=options.workers,
        seed=seed,
        shape=BatchShape(options.pixels),
        mix=PageMix(crowded=options.crowded, short=options.short),
    )
    feeder = Feeder(source, mix, device)
    try:
        yield feeder
    finally:
        feeder.stop()
        source.close()


def train(options: argparse.Namespace) -> None:
    """The loop."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    prompts = PromptTokens.from_folder(options.tokenizer, options.data)
    trainer = Trainer(DemoConfig(), len(ALPHABET), prompts, len(LEVELS), device, fast=device.type == "cuda")
    clock, curriculum = resume(options, trainer)
    keeper = Keeper(options.out, options.state)
    with (
        sdpa_kernel(ATTENTION[options.attention], set_priority=True),
        feeding(options, curriculum.mix(), clock.steps + round(clock.seconds), device) as feeder,
        open(options.out / "curve.jsonl", "a", encoding="utf-8") as curve,
    ):
        run(options, trainer, clock, curriculum, feeder, keeper, curve)
    print(json.dumps({**asdict(clock), "shapes": len(trainer.captured)}))


def run(
    options: argparse.Namespace,
    trainer: Trainer,
    clock: Clock,
    curriculum: Curriculum,
    feeder: Feeder,
    keeper: Keeper,
    curve: TextIO,
) -> None:
    """Steps until the seconds are over."""
    before, began, saved = clock.seconds, time.perf_counter(), time.perf_counter()
    while clock.seconds < before + options.seconds:
        batch = feeder.get()
        clock.seconds = before + time.perf_counter() - began
        progress = clock.seconds / options.total_seconds
        trainer.set_rates(rate(clock.steps, progress), average_keep(clock.steps), rough_share(progress))
        trainer.train_on(batch)
        clock.steps, clock.pages = clock.steps + 1, clock.pages + len(batch.ink)
        if clock.steps % LOG_EVERY == 0:
            line = log_line(trainer, clock, curriculum, feeder.again)
            feeder.set_mix(curriculum.mix())
            print(json.dumps(line), file=curve, flush=True)
            if clock.steps % PRINT_EVERY == 0:
                print(json.dumps(line), flush=True)
        if time.perf_counter() - saved > SAVE_EVERY:
            keeper.save(trainer, clock, curriculum)
            saved = time.perf_counter()
    keeper.save(trainer, clock, curriculum, wait=True)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train the demo checkpoint.")
    parser.add_argument(
        "--data", type=Path, default=Path("tools/demo_model/.data"), help="folder fetch_data filled"
    )
    parser.add_argument("--tokenizer", type=Path, default=Path("src/mlx_chandra/demo/checkpoint"))
    parser.add_argument("--out", type=Path, required=True, help="folder for weights and learning curve")
    parser.add_argument("--state", type=Path, help="file to go on from later (default: state.pt in --out)")
    parser.add_argument("--seconds", type=float, default=1080, help="training time of this call")
    parser.add_argument("--total-seconds", type=float, help="of all calls together; rates reach 0 then")
    parser.add_argument("--resume", action="store_true", help="go on from --state if it exists")
    parser.add_argument(
        "--start-from", type=Path, nargs="+", help="averaged weights, or a model.safetensors, to start from"
    )
    parser.add_argument(
        "--start-seconds",
        type=float,
        default=0.0,
        help="training time in --start-from; the rates begin where they are after it",
    )
    parser.add_argument(
        "--crowded",
        type=float,
        default=PageMix.crowded,
        help="share of pages of small close lines, half of them full",
    )
    parser.add_argument(
        "--short",
        type=float,
        help="share of the short prompt on pages of blocks (default: the levels')",
    )
    parser.add_argument("--workers", type=int, default=12, help="processes that draw pages")
    parser.add_argument("--pixels", type=int, default=BatchShape.pixels, help="of all pages of a batch")
    parser.add_argument("--attention", choices=tuple(ATTENTION), default="cudnn", help="which kernels")
    options = parser.parse_args()
    options.state = options.state or options.out / "state.pt"
    options.total_seconds = options.total_seconds or options.seconds
    return options


if __name__ == "__main__":
    train(arguments())
