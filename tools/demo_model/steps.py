"""Runs training steps: compiled blocks, and each page size's and prompt's step captured as a CUDA graph.

On a CPU (for tests and debugging) the same code runs plainly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from tools.demo_model import degrade_gpu
from tools.demo_model.batches import Batch
from tools.demo_model.losses import Helpers, Shape, StepInputs, mean_cross_entropy, step_losses
from tools.demo_model.model import (
    DemoConfig,
    DemoModel,
    Merger,
    TextBlock,
    VisionBlock,
    text_positions,
    text_rotary,
    vision_geometry,
)
from tools.demo_model.muon import FlatOptimiser
from tools.demo_model.prompts import PromptKind, PromptTokens

LOG_COLUMNS = ("steps", "loss", "reading", "character", "place", "accuracy")


class DeviceBatch(NamedTuple):
    """A Batch as tensors. A named tuple, because a DataLoader moves and pins what is in one."""

    level: int
    prompt: int
    ink: Tensor  # uint8 [B, h, w]
    answers: Tensor  # int32 [B, T]
    lengths: Tensor  # int32 [B]
    places: Tensor  # float16 [B, T, 2]
    characters: Tensor  # uint8 [B, P, SLOTS]

    @classmethod
    def of(cls, batch: Batch) -> DeviceBatch:
        """Share a batch's memory."""
        arrays = (batch.ink, batch.answers, batch.lengths, batch.places, batch.characters)
        return cls(batch.level, int(batch.prompt), *map(torch.from_numpy, arrays))

    @property
    def key(self) -> tuple[int, ...]:
        """Batches with the same key share a captured graph."""
        return (self.level, self.prompt, *self.ink.shape, self.answers.shape[1])

    def tensors(self) -> tuple[Tensor, ...]:
        """Return the tensors, in a fixed order."""
        return self.ink, self.answers, self.lengths, self.places, self.characters

    def to(self, device: torch.device) -> DeviceBatch:
        """Copy to a device, without waiting where the memory is pinned."""
        moved = (tensor.to(device, non_blocking=True) for tensor in self.tensors())
        return DeviceBatch(self.level, self.prompt, *moved)


@dataclass(frozen=True)
class Captured:
    """A recorded step and the tensors it reads, which must live as long as the graph."""

    batch: DeviceBatch
    shape: Shape
    graph: torch.cuda.CUDAGraph


def fused_rows(config: DemoConfig) -> dict[str, tuple[int, ...]]:
    """Return which matrices are several in one, by the end of their name, with the rows of each."""
    vision = {
        f"vision.blocks.{n}.qkv.weight": (config.vision_hidden,) * 3 for n in range(config.vision_depth)
    }
    return vision | {"qkv.weight": config.qkv_rows, "gate_up.weight": (config.intermediate,) * 2}


def compile_blocks() -> None:
    """Compile the blocks once for all shapes; call it before the first step."""
    torch._dynamo.config.recompile_limit = 64
    for block in (VisionBlock, TextBlock, Merger):
        block.forward = torch.compile(block.forward, dynamic=True)  # type: ignore[method-assign]
    degrade_gpu.print_and_scan = torch.compile(degrade_gpu.print_and_scan, dynamic=True)


class Trainer:
    """Model, helpers and optimiser on one device, and the captured steps."""

    def __init__(
        self,
        config: DemoConfig,
        characters: int,
        prompts: PromptTokens,
        levels: int,
        device: torch.device,
        fast: bool,
    ) -> None:
        """`fast` compiles and captures; it needs a CUDA device."""
        self.config, self.prompts, self.device, self.fast = config, prompts, device, fast
        generator = torch.Generator().manual_seed(1)
        self.model, self.helpers = DemoModel(config), Helpers(config, characters)
        self.model.initialise(generator)
        self.helpers.initialise()
        self.model.to(device)
        self.helpers.to(device)
        named = list(self.model.named_parameters())
        named += [(f"helpers.{name}", weight) for name, weight in self.helpers.named_parameters()]
        self.optimiser = FlatOptimiser(named, fused_rows(config), torch.bfloat16 if fast else torch.float32)
        self.rough = torch.zeros((), device=device)
        self.log = torch.zeros(levels, len(prompts.after), len(LOG_COLUMNS), device=device)
        self.cosines = degrade_gpu.cosine_matrix().to(device)
        self.table = torch.tensor(degrade_gpu.LUMINANCE, dtype=torch.float32, device=device)
        self.cross_entropy = torch.compile(mean_cross_entropy, dynamic=True) if fast else mean_cross_entropy
        self.pool = torch.cuda.graph_pool_handle() if fast else None
        self.captured: dict[tuple[int, ...], Captured] = {}
        self.optimiser_graph: torch.cuda.CUDAGraph | None = None
        if fast:
            compile_blocks()

    def shape(self, batch: DeviceBatch) -> Shape:
        """Return the constants of a batch's page size and prompt."""
        height, width = batch.ink.shape[1:]
        lead, prompt = self.prompts.lead, self.prompts.after[batch.prompt]
        geometry = vision_geometry(self.config, height, width, self.device)
        after = len(prompt) + batch.answers.shape[1] - 1
        positions = text_positions(len(lead), geometry.grid, after, self.config.merge)
        return Shape(
            geometry=geometry,
            rotary=text_rotary(self.config, positions, self.device),
            lead=torch.tensor(lead, device=self.device),
            prompt=torch.tensor(prompt, device=self.device),
            marks=torch.tensor(self.prompts.marks, device=self.device),
            texts=torch.tensor(self.prompts.texts, device=self.device),
        )

    def backward(self, batch: DeviceBatch, shape: Shape) -> None:
        """Leave the gradients of one batch with the optimiser and add to the log."""
        inputs = StepInputs(
            pages=degrade_gpu.degrade_batch(batch.ink, self.rough, self.cosines, self.table),
            answers=batch.answers.long(),
            lengths=batch.lengths.long(),
            places=batch.places.float(),
            characters=batch.characters.long(),
        )
        losses = step_losses(self.model, self.helpers, inputs, shape, self.cross_entropy)
        self.optimiser.store(torch.autograd.grad(losses.total, self.optimiser.parameters))
        one = torch.ones((), device=self.device)
        row = (one, losses.total.detach(), losses.reading, losses.character, losses.place, losses.accuracy)
        self.log[batch.level, batch.prompt].add_(torch.stack([value.float() for value in row]))

    def train_on(self, batch: DeviceBatch) -> None:
        """Run one step."""
        if not self.fast:
            self.backward(batch, self.shape(batch))
            self.optimiser.step()
            return
        if batch.key not in self.captured:
            self.captured[batch.key] = self.capture(batch)
        captured = self.captured[batch.key]
        for mine, theirs in zip(captured.batch.tensors(), batch.tensors(), strict=True):
            mine.copy_(theirs, non_blocking=True)
        captured.graph.replay()
        if self.optimiser_graph is None:
            self.optimiser_graph = self.capture_optimiser()
        self.optimiser_graph.replay()

    def capture(self, batch: DeviceBatch) -> Captured:
        """Record the step over its own copy of the batch; the log is as before afterwards."""
        own = DeviceBatch(batch.level, batch.prompt, *(value.clone() for value in batch.tensors()))
        shape, kept = self.shape(batch), self.log.clone()
        graph = self.record(lambda: self.backward(own, shape))
        self.log.copy_(kept)
        return Captured(own, shape, graph)

    def capture_optimiser(self) -> torch.cuda.CUDAGraph:
        """Record the optimiser's step; weights and moments are as before afterwards."""
        state = self.optimiser.state()
        graph = self.record(self.optimiser.step)
        self.optimiser.restore(state)
        return graph

    def record(self, work: Callable[[], None]) -> torch.cuda.CUDAGraph:
        """Record work, after two runs on a side stream in which libraries make their handles and plans."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                work()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
            work()
        return graph

    def set_rates(self, rate: float, keep: float, rough: float) -> None:
        """Set the learning rate (0 to 1), EMA decay and share of rough pages of the next steps."""
        self.optimiser.rate.fill_(rate)
        self.optimiser.keep.fill_(keep)
        self.rough.fill_(rough)

    def read_log(self) -> list[dict[str, float]]:
        """Return means per level since the last call (`short`: accuracy with the short prompt)."""
        levels = self.log.tolist()
        self.log.zero_()
        rows = []
        for prompts in levels:
            steps, *sums = (sum(column) for column in zip(*prompts, strict=True))
            means = [value / max(steps, 1) for value in sums]
            row = dict(zip(LOG_COLUMNS, (steps, *means), strict=True))
            short = prompts[PromptKind.SHORT]
            rows.append({**row, "short": short[LOG_COLUMNS.index("accuracy")] / max(short[0], 1)})
        return rows
