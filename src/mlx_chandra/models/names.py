"""Names of a checkpoint's tensors, both ways: Hugging Face's and MLX's layouts, and ours.

Ours are the attribute names of `models/qwen3_vl.py`. MLX's are those that mlx-vlm writes.
"""

from enum import StrEnum


class Layout(StrEnum):
    """Whose names a checkpoint uses."""

    HUGGING_FACE = "hugging-face"
    MLX = "mlx"


PATCH_PROJECTION = "visual.patch_embed.proj.weight"  # [out, channels, ...] or, in MLX's layout, channels last

# (our prefix, Hugging Face's, MLX's)
_PREFIXES = (
    ("language_model.", "model.language_model.", "language_model.model."),
    ("visual.", "model.visual.", "vision_tower."),
    ("lm_head.", "lm_head.", "language_model.lm_head."),
)


def our_name(name: str) -> str:
    """Return our name for a tensor or module of either layout. A name of neither stays as it is."""
    for ours, *theirs in _PREFIXES:
        for prefix in theirs:
            if name.startswith(prefix):
                return ours + name.removeprefix(prefix)
    return name


def checkpoint_name(name: str, layout: Layout) -> str:
    """Return the name that a tensor or module of ours has in a checkpoint."""
    for ours, hugging_face, mlx in _PREFIXES:
        if name.startswith(ours):
            return (mlx if layout is Layout.MLX else hugging_face) + name.removeprefix(ours)
    return name
