"""Read large collections of page images with the Chandra OCR models on MLX.

The public names, and nothing else. Each is fetched from its module when it is first asked for (PEP 562), so
that `import mlx_chandra` loads neither mlx nor a tokenizer.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlx_chandra.engine.batch import BatchResponse, batch_generate, group_images_by_shape, load
    from mlx_chandra.engine.generator import BatchGenerator
    from mlx_chandra.errors import MlxChandraError

__version__ = "0.1.0"

__all__ = [
    "BatchGenerator",
    "BatchResponse",
    "MlxChandraError",
    "__version__",
    "batch_generate",
    "group_images_by_shape",
    "load",
]

_HOMES = {
    "BatchGenerator": "mlx_chandra.engine.generator",
    "BatchResponse": "mlx_chandra.engine.batch",
    "MlxChandraError": "mlx_chandra.errors",
    "batch_generate": "mlx_chandra.engine.batch",
    "group_images_by_shape": "mlx_chandra.engine.batch",
    "load": "mlx_chandra.engine.batch",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'mlx_chandra' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
