"""The Chandra models in MLX: arrays in, arrays out; they know no files of the user's and no threads.

The names are fetched from their modules when they are first asked for (PEP 562): who only wants to know where
a checkpoint lies, or which one it is, doesn't wait for mlx.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlx_chandra.models.hub import resolve_checkpoint
    from mlx_chandra.models.load import load_model

__all__ = ["load_model", "resolve_checkpoint"]


def __getattr__(name: str) -> object:
    modules = {"load_model": "load", "resolve_checkpoint": "hub"}
    if name not in modules:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{modules[name]}"), name)
