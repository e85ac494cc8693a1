"""The Chandra models in MLX: arrays in, arrays out; they know no files of the user's and no threads."""

from mlx_chandra.models.hub import resolve_checkpoint
from mlx_chandra.models.load import load_model

__all__ = ["load_model", "resolve_checkpoint"]
