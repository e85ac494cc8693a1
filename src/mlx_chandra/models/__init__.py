"""The Chandra models in MLX: arrays in, arrays out; they know no files of the user's and no threads.

The names are fetched from their modules when they are first asked for (PEP 562): who only wants to know where
a checkpoint lies, or which one it is, doesn't wait for mlx.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlx_chandra.models.hub import resolve_checkpoint
    from mlx_chandra.models.load import load_model

__all__ = ["load_model", "resolve_checkpoint"]


def __getattr__(name: str) -> object:
    if name == "load_model":
        from mlx_chandra.models.load import load_model

        return load_model
    if name == "resolve_checkpoint":
        from mlx_chandra.models.hub import resolve_checkpoint

        return resolve_checkpoint
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
