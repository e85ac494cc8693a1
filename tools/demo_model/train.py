"""Trains the demo checkpoint from random weights on pages drawn as it goes. One GPU; stops by the clock.

    python -m tools.demo_model.train --data tools/demo_model/.data --out runs/demo --seconds 1080

Writes into --out: average.safetensors (the averaged weights in bf16, for export.py), curve.jsonl (the
learning curve) and state.pt. The same command goes on from state.pt where it stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import random
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from tools.demo_model.batches import Packer
from tools.demo_model.curriculum import Curriculum, average_keep, rate, rough_share
from tools.demo_model.export import read_weights
from tools.demo_model.glyphs import draw_all
from tools.demo_model.model import DemoConfig
from tools.demo_model.pages import LEVELS
from tools.demo_model.prompts import PromptTokens
from tools.demo_model.steps import DeviceBatch, Trainer
from tools.demo_model.text import ALPHABET

TOKENIZER = Path("src/mlx_chandra/demo/checkpoint")
LOG_EVERY, PRINT_EVERY = 50, 500  # steps
SAVE_EVERY = 120.0  # seconds
ATTENTION = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]
AHEAD = 4  # batches waiting for the device
KEPT = 240  # batches per level that stay on the device, to be read again when the workers are behind


@dataclass
class Clock:
    """Steps, pages and seconds of training, over all calls of a run."""

    steps: int = 0
    pages: int = 0
    seconds: float = 0.0


class DrawnBatches(IterableDataset[DeviceBatch]):
    """Batches without end, drawn in a DataLoader's workers. Levels come by `weights`, which may change."""

    def __init__(self, data: Path, tokenizer: Path, seed: int) -> None:
        self.data, self.tokenizer, self.seed = data, tokenizer, seed
        self.weights = torch.ones(len(LEVELS), dtype=torch.float64).share_memory_()

    def __iter__(self) -> Iterator[DeviceBatch]:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        worker = get_worker_info()
        rng = np.random.default_rng((self.seed, worker.id if worker else 0))
        packer = Packer.from_folders(self.data, self.tokenizer)
        while True:
            yield DeviceBatch.of(packer.draw(rng, self.weights.tolist()))


class BatchQueue:
    """Takes batches ahead of time in a thread, and hands them out on the device.

    When none is ready, an earlier one comes again (with other paper, noise and blur), so that the GPU never
    waits.
    """

    def __init__(self, batches: Iterable[DeviceBatch], mix: tuple[float, ...], device: torch.device) -> None:
        self.mix, self.device, self.again = mix, device, 0
        self.kept: list[deque[DeviceBatch]] = [deque(maxlen=KEPT) for _ in mix]
        self.dice = random.Random(0)
        self.ready: queue.Queue[DeviceBatch | Exception] = queue.Queue(AHEAD)
        self.stopping = False
        self.thread = threading.Thread(target=self.fill, args=(batches,), daemon=True)
        self.thread.start()

    def fill(self, batches: Iterable[DeviceBatch]) -> None:
        """Put batches, or the error that ended them, into the queue."""
        try:
            for batch in batches:
                self.ready.put(batch)
                if self.stopping:
                    return
        except Exception as error:  # get() raises it in the training loop
            self.ready.put(error)

    def get(self) -> DeviceBatch:
        """Return a new batch if one is ready, else one of the kept ones; wait only while there are none.

        Raises RuntimeError where the workers failed.
        """
        kept = self.kept[self.dice.choices(range(len(self.mix)), self.mix)[0]]
        try:
            batch = self.ready.get(timeout=0.001 if kept else None)
        except queue.Empty:
            self.again += 1
            return self.dice.choice(kept)
        if isinstance(batch, Exception):
            raise RuntimeError("the page workers stopped") from batch
        batch = batch.to(self.device)
        self.kept[batch.level].append(batch)
        return batch

    def stop(self) -> None:
        """End the thread."""
        self.stopping = True
        while self.thread.is_alive():
            with suppress(queue.Empty):  # make room, in case it waits for that
                self.ready.get_nowait()
            self.thread.join(timeout=0.1)


def save(out: Path, trainer: Trainer, clock: Clock, curriculum: Curriculum) -> None:
    """Write the averaged weights and the state beside their files and rename them."""
    average = {
        name: value.to(torch.bfloat16).cpu().clone()
        for name, value in trainer.optimiser.named(trainer.optimiser.average).items()
        if not name.startswith("helpers.")
    }
    save_file(average, out / "average.new")
    os.replace(out / "average.new", out / "average.safetensors")
    whole = {
        "optimiser": trainer.optimiser.state(),
        "clock": asdict(clock),
        "curriculum": asdict(curriculum),
    }
    torch.save(whole, out / "state.new")
    os.replace(out / "state.new", out / "state.pt")


def start(options: argparse.Namespace, trainer: Trainer) -> tuple[Clock, Curriculum]:
    """Go on from --out's state if it is there, else from the weights of --start-from if they are given."""
    clock, curriculum = Clock(), Curriculum(len(LEVELS))
    state = options.out / "state.pt"
    if state.exists():
        whole = torch.load(state, map_location="cpu", weights_only=True)
        trainer.optimiser.restore(whole["optimiser"])
        return Clock(**whole["clock"]), Curriculum(**whole["curriculum"])
    if options.start_from:
        trainer.optimiser.set_weights(read_weights(options.start_from, trainer.config))
        clock.seconds, curriculum.unlocked = options.start_seconds, len(LEVELS)
    return clock, curriculum


def log_line(trainer: Trainer, clock: Clock, curriculum: Curriculum, again: int) -> dict[str, Any]:
    """Return one line of the curve, means per level since the last one; tell the curriculum about them."""
    levels = {}
    for number, row in enumerate(trainer.read_log()):
        if row["steps"]:
            curriculum.observe(number, row["accuracy"])
            levels[str(number)] = {name: round(value, 4) for name, value in row.items()}
    return {**asdict(clock), "unlocked": curriculum.unlocked, "again": again, "levels": levels}


@contextmanager
def drawing(
    options: argparse.Namespace, mix: tuple[float, ...], seed: int, device: torch.device
) -> Iterator[tuple[BatchQueue, torch.Tensor]]:
    """Start the workers; yield their queue and the levels' weights; stop them at the end."""
    draw_all(options.data, options.workers)
    drawn = DrawnBatches(options.data, TOKENIZER, seed)
    drawn.weights.copy_(torch.tensor(mix))
    loader = DataLoader(
        drawn,
        batch_size=None,
        num_workers=options.workers,
        pin_memory=device.type == "cuda",
        multiprocessing_context="spawn",
        in_order=False,
    )
    batches = BatchQueue(loader, mix, device)
    try:
        yield batches, drawn.weights
    finally:
        batches.stop()


def train(options: argparse.Namespace) -> None:
    """Set everything up, and train."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    prompts = PromptTokens.from_folder(TOKENIZER, options.data)
    trainer = Trainer(DemoConfig(), len(ALPHABET), prompts, len(LEVELS), device, fast=device.type == "cuda")
    options.out.mkdir(parents=True, exist_ok=True)
    clock, curriculum = start(options, trainer)
    with (
        sdpa_kernel(ATTENTION, set_priority=True),
        drawing(options, curriculum.mix(), clock.steps + round(clock.seconds), device) as (batches, weights),
        open(options.out / "curve.jsonl", "a", encoding="utf-8") as curve,
    ):
        run(options, trainer, clock, curriculum, batches, weights, curve)
    print(json.dumps({**asdict(clock), "shapes": len(trainer.captured)}))


def run(
    options: argparse.Namespace,
    trainer: Trainer,
    clock: Clock,
    curriculum: Curriculum,
    batches: BatchQueue,
    weights: torch.Tensor,
    curve: TextIO,
) -> None:
    """Train until the seconds are over."""
    before, began, saved = clock.seconds, time.perf_counter(), time.perf_counter()
    while clock.seconds < before + options.seconds:
        batch = batches.get()
        clock.seconds = before + time.perf_counter() - began
        progress = clock.seconds / options.total_seconds
        trainer.set_rates(rate(clock.steps, progress), average_keep(clock.steps), rough_share(progress))
        trainer.train_on(batch)
        clock.steps, clock.pages = clock.steps + 1, clock.pages + len(batch.ink)
        if clock.steps % LOG_EVERY == 0:
            line = json.dumps(log_line(trainer, clock, curriculum, batches.again))
            batches.mix = curriculum.mix()
            weights.copy_(torch.tensor(batches.mix))
            print(line, file=curve, flush=True)
            if clock.steps % PRINT_EVERY == 0:
                print(line, flush=True)
        if time.perf_counter() - saved > SAVE_EVERY:
            save(options.out, trainer, clock, curriculum)
            saved = time.perf_counter()
    save(options.out, trainer, clock, curriculum)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Train the demo checkpoint.")
    add = parser.add_argument
    add("--data", type=Path, default=Path("tools/demo_model/.data"), help="folder fetch_data filled")
    add("--out", type=Path, required=True, help="folder for weights, learning curve and state")
    add("--seconds", type=float, default=1080, help="training time of this call")
    add("--total-seconds", type=float, help="of all calls together; rates reach 0 then")
    add("--start-from", type=Path, help="averaged weights, or a model.safetensors, to start from")
    add("--start-seconds", type=float, default=0.0, help="training time in --start-from; sets the rates")
    add("--workers", type=int, default=12, help="processes that draw pages")
    options = parser.parse_args()
    options.total_seconds = options.total_seconds or options.seconds
    return options


if __name__ == "__main__":
    train(arguments())
