"""More key/value heads for weights trained with fewer: the model says the same and has room to learn.

A patch token has to hold what stands on 32 x 32 pixels of a page, ten characters where the type is small; all
that a later block reads of it are its keys and values. Copying heads is what GQA's authors do the other way
round (arXiv:2305.13245).
"""

from __future__ import annotations

import torch
from torch import Tensor

from tools.demo_model.model import DemoConfig


def with_key_value_heads(weights: dict[str, Tensor], config: DemoConfig) -> dict[str, Tensor]:
    """The weights with each text block's key and value heads copied until there are config.key_value_heads.

    Raises ValueError if that number is no multiple of theirs.
    """
    widened = dict(weights)
    for layer in range(config.layers):
        name = f"blocks.{layer}.qkv.weight"
        widened[name] = copy_heads(weights[name], config)
    return widened


def copy_heads(joined: Tensor, config: DemoConfig) -> Tensor:
    """Rows of queries, keys and values [heads + 2 * n, head_dim, hidden], flat in the first two axes."""
    rows = joined.unflatten(0, (-1, config.head_dim))
    now = (len(rows) - config.heads) // 2
    times, rest = divmod(config.key_value_heads, now)
    if rest:
        raise ValueError(f"{now} key/value heads can't be copied to {config.key_value_heads}")
    queries, keys_values = rows.split((config.heads, 2 * now))
    keys, values = (part.repeat_interleave(times, dim=0) for part in keys_values.split(now))
    return torch.cat((queries, keys, values)).flatten(0, 1)
