"""Maps the names of a checkpoint's tensors, in Hugging Face's and in MLX's layout, to ours.

Ours are the attribute names of `models/qwen3_vl.py`. MLX's are those that mlx-vlm writes.
"""

PATCH_PROJECTION = "visual.patch_embed.proj.weight"  # [out, channels, ...] or, in MLX's layout, channels last

# (a layout's prefix, ours); of two that fit, the longer one stands first
_PREFIXES = (
    ("model.language_model.", "language_model."),
    ("model.visual.", "visual."),
    ("language_model.model.", "language_model."),
    ("language_model.lm_head.", "lm_head."),
    ("vision_tower.", "visual."),
)


def our_name(name: str) -> str:
    """Return our name for a tensor or module of either layout. A name of neither stays as it is."""
    for theirs, ours in _PREFIXES:
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name
