"""Turns ink into a grey page that looks scanned, on the GPU while training.

Greys, blur, shading, noise, JPEG. All randomness comes from torch's generator of the device, so a captured
CUDA graph draws anew at every replay. The page renderer slants and resamples, because that moves characters.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

CLEAN_SHARE = 0.35  # pages left pure black on white
# The luminance table of JPEG's annex K.
LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)


def cosine_matrix() -> Tensor:
    """Return the orthonormal DCT-II, [8, 8]."""
    n = torch.arange(8, dtype=torch.float32)
    matrix = torch.cos((2 * n[None] + 1) * n[:, None] * math.pi / 16) / 2
    matrix[0] /= math.sqrt(2)
    return matrix


def jpeg(grey: Tensor, quality: Tensor, cosines: Tensor, table: Tensor) -> Tensor:
    """Compress as JPEG does at each page's quality (1 to 100, [B]).

    grey is [B, h, w] in 0 to 1, its sides multiples of 8.
    """
    pages, height, width = grey.shape
    scale = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality)
    steps = ((table[None] * scale[:, None, None] + 50) / 100).floor().clamp(1, 255)  # [B, 8, 8]
    steps = steps[:, None, None]
    blocks = (grey * 255 - 128).view(pages, height // 8, 8, width // 8, 8).transpose(2, 3)
    kept = ((cosines @ blocks @ cosines.T) / steps).round() * steps
    back = cosines.T @ kept @ cosines
    return (back.transpose(2, 3).reshape(pages, height, width) + 128) / 255


def blur(x: Tensor, side: Tensor) -> Tensor:
    """Blur along both axes with three taps; side [B, 1, 1] is the weight of each neighbour."""
    for axis in (1, 2):
        x = x * (1 - 2 * side) + side * (x.roll(1, axis) + x.roll(-1, axis))
    return x


def between(low: float, high: float, like: Tensor) -> Tensor:
    """Draw a uniform number for each page, [B, 1, 1]."""
    return low + (high - low) * torch.rand(len(like), 1, 1, device=like.device)


def print_and_scan(ink: Tensor, rough: Tensor, clean: Tensor) -> Tensor:
    """Turn ink uint8 [B, h, w] into grey [B, h, w] before compression; rough and clean are bool [B, 1, 1]."""
    x = ink.float() / 255
    x = x.clamp(min=1e-5) ** torch.where(clean, 1.0, torch.exp(between(-0.35, 0.35, x)))
    soft = torch.where(rough, between(0.0, 0.27, x), between(-0.1, 0.12, x).clamp(min=0))
    x = blur(x, torch.where(clean, 0.0, soft))
    paper = torch.where(clean, 1.0, between(0.8, 1.04, x).clamp(max=1))
    black = torch.where(clean, 0.0, between(-0.1, 0.35, x).clamp(min=0))
    grey = paper + (black - paper) * x
    down = torch.arange(x.shape[1], device=x.device)[None, :, None] * (2 / x.shape[1]) - 1
    across = torch.arange(x.shape[2], device=x.device)[None, None, :] * (2 / x.shape[2]) - 1
    slope = torch.where(rough, 1.0, 0.0)
    grey = grey + slope * (between(-0.05, 0.05, x) * down + between(-0.05, 0.05, x) * across)
    noise = torch.where(rough, between(0.0, 0.1, x), between(-0.02, 0.025, x).clamp(min=0))
    return (grey + torch.where(clean, 0.0, noise) * torch.randn_like(grey)).clamp(0, 1)


def degrade_batch(ink: Tensor, share: Tensor, cosines: Tensor, table: Tensor) -> Tensor:
    """Turn ink uint8 [B, h, w] into pages float32 [B, h, w] in -1 to 1; `share` (0-dim) badly scanned."""
    rough = torch.rand(len(ink), 1, 1, device=ink.device) < share
    clean = ~rough & (torch.rand(len(ink), 1, 1, device=ink.device) < CLEAN_SHARE)
    grey = print_and_scan(ink, rough, clean)
    quality = between(35, 95, grey)[:, 0, 0]
    packed = rough & (torch.rand(len(ink), 1, 1, device=ink.device) < 0.6)
    grey = torch.where(packed, jpeg(grey, quality, cosines, table), grey).clamp(0, 1)
    return (grey * 255).round() / 127.5 - 1
