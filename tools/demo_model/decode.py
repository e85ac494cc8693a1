"""Greedy reading of many pages of one size with the torch model: prefill once, then a step a token.

Used to evaluate in the machine that trains. All pages of a call have the same prompt, so all rows are at
the same position and nothing is padded. On CUDA the step is a captured graph.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tools.demo_model.model import DemoModel, Rotary, attention, text_positions, text_rotary, vision_geometry

CHECK_EVERY = 32  # steps between looks at whether every page has stopped


@dataclass(frozen=True)
class Cache:
    """Keys and values of every layer, [B, key_value_heads, L, head_dim] each."""

    keys: list[Tensor]
    values: list[Tensor]


@dataclass(frozen=True)
class Cursor:
    """Where a decode is: the last token of each page and the place it takes, both on the device."""

    token: Tensor  # int64 [B]
    place: Tensor  # int64 [1]


def prefill(
    model: DemoModel, pages: Tensor, lead: Tensor, prompt: Tensor, rotary: Rotary, cache: Cache
) -> Tensor:
    """Runs page and prompt, fills the cache; pages [B, h, w], lead and prompt int64 [n] -> logits [B, V]."""
    geometry = vision_geometry(model.config, pages.shape[1], pages.shape[2], pages.device)
    vision = model.vision(pages, geometry)
    many = len(pages)
    x = torch.cat(
        (model.embed(lead).expand(many, -1, -1), vision.tokens, model.embed(prompt).expand(many, -1, -1)), 1
    )
    length = x.shape[1]
    group = model.config.heads // model.config.key_value_heads
    for layer, block in enumerate(model.blocks):
        q, k, v = block.project(x, rotary.cos[:length], rotary.sin[:length])
        cache.keys[layer][:, :, :length] = k.transpose(1, 2)
        cache.values[layer][:, :, :length] = v.transpose(1, 2)
        mixed = attention(q, k.repeat_interleave(group, 2), v.repeat_interleave(group, 2), causal=True)
        x = model.add_deepstack(layer, block.finish(x, mixed), vision, len(lead))
    return model.logits(x[:, -1])


def step(model: DemoModel, cursor: Cursor, rotary: Rotary, cache: Cache) -> None:
    """Feeds the cursor's tokens and moves it on to the likeliest next ones, in place."""
    heads = model.config.key_value_heads
    x = model.embed(cursor.token)[:, None]  # [B, 1, hidden]
    cos, sin = rotary.cos[cursor.place], rotary.sin[cursor.place]
    seen = torch.arange(cache.keys[0].shape[2], device=x.device) <= cursor.place
    for layer, block in enumerate(model.blocks):
        q, k, v = block.project(x, cos, sin)
        cache.keys[layer].index_copy_(2, cursor.place, k.transpose(1, 2))
        cache.values[layer].index_copy_(2, cursor.place, v.transpose(1, 2))
        grouped = q[:, 0].unflatten(1, (heads, -1))  # [B, key_value_heads, group, d]
        mixed = F.scaled_dot_product_attention(
            grouped, cache.keys[layer], cache.values[layer], attn_mask=seen[None]
        )
        x = block.finish(x, mixed.flatten(1)[:, None])
    cursor.token.copy_(model.logits(x[:, 0]).argmax(-1))
    cursor.place.add_(1)


def stepper(model: DemoModel, cursor: Cursor, rotary: Rotary, cache: Cache) -> Callable[[], None]:
    """The step as a function of nothing; a captured graph on CUDA."""

    def plain() -> None:
        step(model, cursor, rotary, cache)

    if cursor.token.device.type != "cuda":
        return plain
    before = (cursor.token.clone(), cursor.place.clone())
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        plain()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        plain()
    cursor.token.copy_(before[0])
    cursor.place.copy_(before[1])
    return graph.replay


def read_pages(
    model: DemoModel, pages: Tensor, lead: list[int], prompt: list[int], stop: int, max_tokens: int
) -> list[list[int]]:
    """Greedy answers without the stop token; pages [B, h, w] in -1 to 1, all of one size, on the model's
    device."""
    config, device, many = model.config, pages.device, len(pages)
    grid = (pages.shape[1] // config.patch, pages.shape[2] // config.patch)
    positions = text_positions(len(lead), grid, len(prompt) + max_tokens, config.merge)
    rotary = text_rotary(config, positions, device)
    room = (many, config.key_value_heads, positions.shape[1], config.head_dim)
    dtype = model.embedding.dtype
    cache = Cache(*([torch.zeros(room, dtype=dtype, device=device) for _ in model.blocks] for _ in range(2)))
    with torch.no_grad():
        before, after = torch.tensor(lead, device=device), torch.tensor(prompt, device=device)
        first = prefill(model, pages, before, after, rotary, cache).argmax(-1)
        cursor = Cursor(first, torch.tensor([positions.shape[1] - max_tokens], device=device))
        move = stepper(model, cursor, rotary, cache)
        said = [cursor.token.clone()]
        stopped = first == stop
        for number in range(1, max_tokens):
            move()
            said.append(cursor.token.clone())
            stopped |= said[-1] == stop
            if number % CHECK_EVERY == 0 and bool(stopped.all()):
                break
    rows: list[list[int]] = torch.stack(said, 1).tolist()
    return [row[: row.index(stop)] if stop in row else row for row in rows]
