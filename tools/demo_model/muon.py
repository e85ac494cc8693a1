"""Optimises by Muon for the matrices and Adam for the rest, over flat buffers, with averaged weights (EMA).

Master weights are float32, the model's are bf16 views of one flat buffer. A step touches only tensors
(learning rate and decay among them), so it can be captured in a CUDA graph. Muon: Keller Jordan et al.,
2024 (kellerjordan.github.io/posts/muon).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

MUON_RATE, MUON_MOMENTUM = 0.02, 0.95
ADAM_RATE, ADAM_BETAS, ADAM_EPS = 2e-3, (0.9, 0.98), 1e-8
ALIGNMENT = 64  # elements: every view starts where vector loads and cuBLAS like it
CLIP = 1.0
QUINTIC = (3.4445, -4.7750, 2.0315)
ORTHOGONALISING_STEPS = 5


@dataclass(frozen=True)
class Matrix:
    """A matrix that Muon orthogonalises as a whole: rows of a weight, at an offset of the flat buffers."""

    offset: int
    rows: int
    columns: int


def orthogonalise(stack: Tensor) -> Tensor:
    """Move matrices towards the nearest orthogonal ones by Newton-Schulz; stack bf16 [n, r, c]."""
    a, b, c = QUINTIC
    tall = stack.shape[1] > stack.shape[2]
    x = stack.mT if tall else stack
    x = x / (x.float().norm(dim=(1, 2), keepdim=True) + 1e-7).to(x.dtype)
    for _ in range(ORTHOGONALISING_STEPS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if tall else x


class FlatOptimiser:
    """Owns the weights of some modules: their parameters become views of `weights`."""

    def __init__(
        self, named: Iterable[tuple[str, nn.Parameter]], fused: dict[str, tuple[int, ...]], dtype: torch.dtype
    ) -> None:
        """`fused` gives, by the end of a matrix's name, the rows of the matrices stacked in it."""
        everything = list(named)
        matrices = [(name, weight) for name, weight in everything if goes_to_muon(name, weight)]
        rest = [(name, weight) for name, weight in everything if not goes_to_muon(name, weight)]
        self.order = matrices + rest
        self.offsets: list[int] = []
        total = 0
        for _, weight in self.order:
            self.offsets.append(total)
            total += -(-weight.numel() // ALIGNMENT) * ALIGNMENT
        self.split = self.offsets[len(matrices)]
        device = everything[0][1].device
        self.master = torch.zeros(total, device=device)
        for (_, weight), offset in zip(self.order, self.offsets, strict=True):
            self.master[offset : offset + weight.numel()] = weight.detach().flatten()
        self.average = self.master.clone()
        self.weights = self.master.to(dtype)
        self.gradients = torch.zeros_like(self.weights)
        self.momentum = torch.zeros(self.split, device=device)
        self.first = torch.zeros(total - self.split, device=device)
        self.second = torch.zeros(total - self.split, device=device)
        self.count = torch.zeros((), device=device)
        self.rate = torch.zeros((), device=device)  # 0 to 1, times each part's own rate
        self.keep = torch.zeros((), device=device)  # EMA decay
        self.matrices = self._cut(matrices, fused)
        self._attach()

    def _cut(
        self, matrices: list[tuple[str, nn.Parameter]], fused: dict[str, tuple[int, ...]]
    ) -> dict[tuple[int, int], list[Matrix]]:
        groups: dict[tuple[int, int], list[Matrix]] = {}
        for (name, weight), offset in zip(matrices, self.offsets, strict=False):
            rows, columns = weight.shape
            parts = next((cut for end, cut in fused.items() if name.endswith(end)), (rows,))
            if sum(parts) != rows:
                raise ValueError(f"{name} has {rows} rows, its parts {parts}")
            for part in parts:
                groups.setdefault((part, columns), []).append(Matrix(offset, part, columns))
                offset += part * columns
        return groups

    def _attach(self) -> None:
        for (_, weight), offset in zip(self.order, self.offsets, strict=True):
            stop = offset + weight.numel()
            weight.data = self.weights[offset:stop].view(weight.shape)
            weight.grad = None
        self.parameters = [weight for _, weight in self.order]
        self.gradient_views = [
            self.gradients[offset : offset + weight.numel()].view(weight.shape)
            for (_, weight), offset in zip(self.order, self.offsets, strict=True)
        ]

    def store(self, gradients: Iterable[Tensor]) -> None:
        """Store a backward pass's gradients, in the order of `parameters`, where the step reads them."""
        torch._foreach_copy_(self.gradient_views, list(gradients))

    def step(self) -> None:
        """Update everything from `gradients`."""
        with torch.no_grad():
            self._muon()
            self._adam()
            self.average.lerp_(self.master, 1 - self.keep)
            self.weights.copy_(self.master)

    def _muon(self) -> None:
        gradient = self.gradients[: self.split].float()
        self.momentum.lerp_(gradient, 1 - MUON_MOMENTUM)
        update = gradient.lerp_(self.momentum, MUON_MOMENTUM).to(torch.bfloat16)
        for (rows, columns), group in self.matrices.items():
            views = [update[m.offset : m.offset + rows * columns].view(rows, columns) for m in group]
            turned = orthogonalise(torch.stack(views)) * max(1.0, rows / columns) ** 0.5
            torch._foreach_copy_(views, list(turned.unbind()))
        self.master[: self.split].sub_(update * (self.rate * MUON_RATE))

    def _adam(self) -> None:
        (keep_first, keep_second), master = ADAM_BETAS, self.master[self.split :]
        gradient = self.gradients[self.split :].float()
        gradient = gradient * (CLIP / gradient.norm().clamp(min=CLIP))
        self.count.add_(1)
        self.first.lerp_(gradient, 1 - keep_first)
        self.second.lerp_(gradient.square(), 1 - keep_second)
        size = (self.second / (1 - keep_second**self.count)).sqrt() + ADAM_EPS
        update = self.first / (1 - keep_first**self.count) / size
        master.sub_(update * (self.rate * ADAM_RATE))

    def named(self, flat: Tensor) -> dict[str, Tensor]:
        """Return views of a flat buffer (master, average) by parameter name."""
        return {
            name: flat[offset : offset + weight.numel()].view(weight.shape)
            for (name, weight), offset in zip(self.order, self.offsets, strict=True)
        }

    def set_weights(self, named: dict[str, Tensor]) -> None:
        """Start from these weights, by parameter name; those not named stay as they are."""
        for flat in (self.master, self.average):
            views = self.named(flat)
            for name, value in named.items():
                views[name].copy_(value)
        self.weights.copy_(self.master)

    def state(self) -> dict[str, Tensor]:
        """Return everything needed to continue."""
        names = ("master", "average", "momentum", "first", "second", "count")
        return {name: getattr(self, name).cpu() for name in names}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue from `state`."""
        for name, value in state.items():
            getattr(self, name).copy_(value)
        self.weights.copy_(self.master)


def goes_to_muon(name: str, weight: Tensor) -> bool:
    """Say whether Muon trains a weight: matrices in blocks and mergers. Adam trains everything else."""
    return weight.ndim == 2 and ("blocks." in name or "merger" in name)
