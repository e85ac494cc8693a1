"""The demo model in torch: exactly the Qwen3-VL architecture, compact, for batches of one page size.

Grey pages in, next-token logits out. Weights have short names here; export.py maps them to Hugging Face's.
The reference is transformers' Qwen3VLForConditionalGeneration (the parity test compares logits with it);
positions follow Qwen2-VL (M-RoPE, interleaved in Qwen3-VL), and DeepStack is arXiv:2406.04334.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class DemoConfig:
    """Sizes of the demo model; the defaults are the checkpoint that is shipped (14.4 million parameters)."""

    vocabulary: int = 1024
    hidden: int = 256
    layers: int = 6
    heads: int = 4
    key_value_heads: int = 4
    head_dim: int = 64
    intermediate: int = 768
    theta: float = 1e4
    sections: tuple[int, int, int] = (12, 10, 10)
    vision_depth: int = 6
    vision_hidden: int = 256
    vision_heads: int = 4
    vision_intermediate: int = 1024
    vision_theta: float = 1e4
    positions_side: int = 32
    deepstack: tuple[int, ...] = (1, 3)
    patch: int = 16
    merge: int = 2

    @property
    def qkv_rows(self) -> tuple[int, int, int]:
        """Rows of queries, keys and values in a text block's joined matrix."""
        keys = self.key_value_heads * self.head_dim
        return self.heads * self.head_dim, keys, keys


@dataclass(frozen=True)
class VisionGeometry:
    """What the vision tower needs to know about one page size. Patches are in merge-block order
    throughout."""

    grid: tuple[int, int]  # patches down, patches across
    rows: Tensor  # [gh, side] interpolation weights of the learned positions
    columns: Tensor  # [gw, side]
    cos: Tensor  # [P, 1, head_dim]
    sin: Tensor  # [P, 1, head_dim]


@dataclass(frozen=True)
class Rotary:
    """Cosines and sines of one sequence of text positions."""

    cos: Tensor  # [S, 1, head_dim]
    sin: Tensor  # [S, 1, head_dim]


def merge_order(rows: Tensor, merge: int) -> Tensor:
    """[gh, gw, ...] in reading order -> [gh * gw, ...] with the merge x merge patches of a token side by
    side."""
    gh, gw = rows.shape[:2]
    blocks = rows.reshape(gh // merge, merge, gw // merge, merge, *rows.shape[2:])
    return blocks.transpose(1, 2).reshape(gh * gw, *rows.shape[2:])


def interpolation_matrix(size: int, side: int) -> Tensor:
    """[size, side]: linear interpolation of `side` learned positions at `size` places, corners aligned."""
    place = torch.arange(size, dtype=torch.float32) * (side - 1) / max(size - 1, 1)
    return (1 - (place[:, None] - torch.arange(side)).abs()).clamp(min=0)


def vision_geometry(config: DemoConfig, height: int, width: int, device: torch.device) -> VisionGeometry:
    """Positions of the patches of a page of height x width pixels, both multiples of patch * merge."""
    gh, gw = height // config.patch, width // config.patch
    pairs = config.vision_hidden // config.vision_heads // 4
    rate = 1.0 / config.vision_theta ** (torch.arange(pairs, dtype=torch.float32) / pairs)
    down = torch.arange(gh, dtype=torch.float32)[:, None, None] * rate  # [gh, 1, pairs]
    across = torch.arange(gw, dtype=torch.float32)[None, :, None] * rate  # [1, gw, pairs]
    both = torch.cat((down.expand(gh, gw, -1), across.expand(gh, gw, -1)), dim=-1)
    angles = merge_order(torch.cat((both, both), dim=-1), config.merge)[:, None]  # [P, 1, head_dim]
    return VisionGeometry(
        grid=(gh, gw),
        rows=interpolation_matrix(gh, config.positions_side).to(device),
        columns=interpolation_matrix(gw, config.positions_side).to(device),
        cos=angles.cos().to(device),
        sin=angles.sin().to(device),
    )


def text_positions(before: int, grid: tuple[int, int], after: int, merge: int) -> Tensor:
    """[3, S] time, row and column of: `before` tokens, the image's tokens, `after` tokens
    (get_rope_index)."""
    rows, columns = grid[0] // merge, grid[1] // merge
    lead = torch.arange(before).expand(3, -1)
    image = torch.stack(
        (
            torch.full((rows, columns), before),
            before + torch.arange(rows)[:, None].expand(rows, columns),
            before + torch.arange(columns)[None, :].expand(rows, columns),
        )
    ).reshape(3, -1)
    rest = (before + max(rows, columns) + torch.arange(after)).expand(3, -1)
    return torch.cat((lead, image, rest), dim=1)


def text_rotary(config: DemoConfig, positions: Tensor, device: torch.device) -> Rotary:
    """Interleaved M-RoPE: frequency i turns with the row where i % 3 == 1, with the column where i % 3 ==
    2."""
    half = config.head_dim // 2
    rate = 1.0 / config.theta ** (torch.arange(half, dtype=torch.float32) / half)
    angles = positions[..., None].float() * rate  # [3, S, half]
    mixed = angles[0].clone()
    for axis in (1, 2):
        turned = torch.arange(axis, 3 * config.sections[axis], 3)
        mixed[:, turned] = angles[axis][:, turned]
    full = torch.cat((mixed, mixed), dim=-1)[:, None]  # [S, 1, head_dim]
    return Rotary(full.cos().to(device), full.sin().to(device))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns the pairs (i, i + half) of the last axis in float32; x [..., S, heads, head_dim]."""
    wide = x.float()
    first, second = wide.chunk(2, dim=-1)
    return (wide * cos + torch.cat((-second, first), dim=-1) * sin).to(x.dtype)


def rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    """Root mean square norm over the last axis, in float32."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype) * weight


def attention(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    """q, k, v [B, S, heads, head_dim] -> [B, S, heads * head_dim]."""
    mixed = F.scaled_dot_product_attention(
        q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=causal
    )
    return mixed.transpose(1, 2).flatten(2)


class VisionBlock(nn.Module):
    """Pre-norm transformer block over all patches of a page."""

    def __init__(self, config: DemoConfig) -> None:
        super().__init__()
        width = config.vision_hidden
        self.heads = config.vision_heads
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.fc1 = nn.Linear(width, config.vision_intermediate)
        self.fc2 = nn.Linear(config.vision_intermediate, width)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x [B, P, C] -> [B, P, C]."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).unbind(2)
        x = x + self.proj(attention(rotate(q, cos, sin), rotate(k, cos, sin), v, causal=False))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x)), approximate="tanh"))


class Merger(nn.Module):
    """Four neighbouring patches -> one token of the text model."""

    def __init__(self, config: DemoConfig, norm_after_join: bool) -> None:
        super().__init__()
        joined = config.vision_hidden * config.merge**2
        self.joined = joined
        self.norm_after_join = norm_after_join
        self.norm = nn.LayerNorm(joined if norm_after_join else config.vision_hidden, eps=1e-6)
        self.fc1 = nn.Linear(joined, joined)
        self.fc2 = nn.Linear(joined, config.hidden)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, P, C] -> [B, P / 4, hidden]."""
        if self.norm_after_join:
            x = self.norm(x.unflatten(1, (-1, self.joined // x.shape[-1])).flatten(2))
        else:
            x = self.norm(x).unflatten(1, (-1, self.joined // x.shape[-1])).flatten(2)
        return self.fc2(F.gelu(self.fc1(x)))


@dataclass(frozen=True)
class VisionOutput:
    """What the vision tower says of a batch of pages."""

    patches: Tensor  # [B, P, C] after the last block
    tokens: Tensor  # [B, P / 4, hidden]
    deepstack: tuple[Tensor, ...]  # each [B, P / 4, hidden]


class Vision(nn.Module):
    """Vision tower with learned, interpolated positions, 2-D rotary positions and DeepStack."""

    def __init__(self, config: DemoConfig) -> None:
        super().__init__()
        self.config = config
        self.patch = nn.Linear(config.patch**2, config.vision_hidden)
        self.positions = nn.Parameter(torch.empty(config.positions_side**2, config.vision_hidden))
        self.blocks = nn.ModuleList(VisionBlock(config) for _ in range(config.vision_depth))
        self.merger = Merger(config, norm_after_join=False)
        self.deep_mergers = nn.ModuleList(Merger(config, norm_after_join=True) for _ in config.deepstack)

    def page_positions(self, geometry: VisionGeometry) -> Tensor:
        """[P, C] learned positions interpolated to the page's grid."""
        side = self.config.positions_side
        table = self.positions.float().view(side, side, -1)
        tall = torch.einsum("hr,rcd->hcd", geometry.rows, table)
        return merge_order(torch.einsum("wc,hcd->hwd", geometry.columns, tall), self.config.merge)

    def forward(self, pages: Tensor, geometry: VisionGeometry) -> VisionOutput:
        """pages [B, h, w], -1 black to 1 white."""
        (gh, gw), size, merge = geometry.grid, self.config.patch, self.config.merge
        x = pages.view(-1, gh // merge, merge, size, gw // merge, merge, size)
        x = x.permute(0, 1, 4, 2, 5, 3, 6).reshape(len(pages), gh * gw, size * size)
        x = self.patch(x.to(self.patch.weight.dtype))
        x = x + self.page_positions(geometry).to(x.dtype)
        features: list[Tensor] = []
        for number, block in enumerate(self.blocks):
            x = block(x, geometry.cos, geometry.sin)
            if number in self.config.deepstack:
                features.append(self.deep_mergers[len(features)](x))
        return VisionOutput(x, self.merger(x), tuple(features))


class TextBlock(nn.Module):
    """Decoder block with grouped key/value heads and norms on queries and keys. q, k and v share one
    matrix, gate and up too."""

    def __init__(self, config: DemoConfig) -> None:
        super().__init__()
        self.config = config
        self.norm1 = nn.Parameter(torch.empty(config.hidden))
        self.qkv = nn.Linear(config.hidden, sum(config.qkv_rows), bias=False)
        self.q_norm = nn.Parameter(torch.empty(config.head_dim))
        self.k_norm = nn.Parameter(torch.empty(config.head_dim))
        self.out = nn.Linear(config.qkv_rows[0], config.hidden, bias=False)
        self.norm2 = nn.Parameter(torch.empty(config.hidden))
        self.gate_up = nn.Linear(config.hidden, 2 * config.intermediate, bias=False)
        self.down = nn.Linear(config.intermediate, config.hidden, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x [B, S, hidden] -> [B, S, hidden], causal."""
        heads, pairs = self.config.heads, self.config.key_value_heads
        joined = self.qkv(rms_norm(x, self.norm1)).unflatten(-1, (heads + 2 * pairs, self.config.head_dim))
        q, k, v = joined.split((heads, pairs, pairs), dim=2)
        q, k = rotate(rms_norm(q, self.q_norm), cos, sin), rotate(rms_norm(k, self.k_norm), cos, sin)
        k, v = (part.repeat_interleave(heads // pairs, dim=2) for part in (k, v))
        x = x + self.out(attention(q, k, v, causal=True))
        gate, up = self.gate_up(rms_norm(x, self.norm2)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)


class TokenEmbedding(torch.autograd.Function):
    """Rows of the table; the gradient is one dense product with one-hot rows, which CUDA graphs can
    capture."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, ids: Tensor, table: Tensor) -> Tensor:
        """ids int64 [...], table [V, C] -> [..., C]."""
        ctx.save_for_backward(ids)
        ctx.rows = len(table)
        return table[ids]

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[None, Tensor]:
        """Sums the gradients of each row's places."""
        (ids,) = ctx.saved_tensors
        grad = grads[0].flatten(0, -2)
        rows = torch.arange(ctx.rows, device=grad.device)
        return None, (ids.flatten() == rows[:, None]).to(grad.dtype) @ grad


class DemoModel(nn.Module):
    """Vision tower, text decoder, and a head that shares the token table."""

    def __init__(self, config: DemoConfig) -> None:
        super().__init__()
        self.config = config
        self.vision = Vision(config)
        self.embedding = nn.Parameter(torch.empty(config.vocabulary, config.hidden))
        self.blocks = nn.ModuleList(TextBlock(config) for _ in range(config.layers))
        self.norm = nn.Parameter(torch.empty(config.hidden))

    def initialise(self, generator: torch.Generator) -> None:
        """Random weights: matrices by their inputs, those that write to a residual stream smaller."""
        for name, weight in self.named_parameters():
            with torch.no_grad():
                if name == "embedding" or name.endswith("positions"):
                    weight.normal_(0, 0.04, generator=generator)
                elif weight.ndim == 1:
                    weight.fill_(0.0 if name.endswith("bias") else 1.0)
                else:
                    quiet = name.endswith(("proj.weight", "out.weight", "down.weight")) or (
                        ".blocks." in name and name.endswith("fc2.weight")
                    )
                    weight.normal_(
                        0, (0.3 if quiet else 1.0) / math.sqrt(weight.shape[1]), generator=generator
                    )

    def embed(self, ids: Tensor) -> Tensor:
        """ids int64 [...] -> [..., hidden]."""
        rows: Tensor = TokenEmbedding.apply(ids, self.embedding)
        return rows

    def text(self, x: Tensor, rotary: Rotary, vision: VisionOutput, start: int) -> list[Tensor]:
        """The stream after every block, each [B, S, hidden]; the image's tokens begin at `start`.

        The first blocks add a DeepStack feature each at the image's tokens.
        """
        stop = start + vision.tokens.shape[1]
        states = []
        for layer, block in enumerate(self.blocks):
            x = block(x, rotary.cos, rotary.sin)
            if layer < len(vision.deepstack):
                image = x[:, start:stop] + vision.deepstack[layer]
                x = torch.cat((x[:, :start], image, x[:, stop:]), dim=1)
            states.append(x)
        return states

    def logits(self, x: Tensor) -> Tensor:
        """[..., hidden] -> [..., V]."""
        return rms_norm(x, self.norm) @ self.embedding.T
