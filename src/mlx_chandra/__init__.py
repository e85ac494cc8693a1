"""Read large collections of page images with the Chandra OCR models on MLX.

The public names, and nothing else. Each is fetched from its module when it is first asked for (PEP 562), so
that `import mlx_chandra` loads neither mlx nor a tokenizer.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlx_chandra.engine.generator import BatchGenerator
    from mlx_chandra.engine.service import Service, open_service
    from mlx_chandra.errors import MlxChandraError
    from mlx_chandra.reading.batch import (
        BatchResponse,
        BatchStats,
        batch_generate,
        group_images_by_shape,
        load,
    )
    from mlx_chandra.reading.read import ReadOptions, read_pages

__version__ = "0.1.0"

__all__ = [
    "BatchGenerator",
    "BatchResponse",
    "BatchStats",
    "MlxChandraError",
    "ReadOptions",
    "Service",
    "__version__",
    "batch_generate",
    "group_images_by_shape",
    "load",
    "open_service",
    "read_pages",
]

_HOMES = {
    "BatchGenerator": "mlx_chandra.engine.generator",
    "BatchResponse": "mlx_chandra.reading.batch",
    "BatchStats": "mlx_chandra.reading.batch",
    "MlxChandraError": "mlx_chandra.errors",
    "ReadOptions": "mlx_chandra.reading.read",
    "Service": "mlx_chandra.engine.service",
    "batch_generate": "mlx_chandra.reading.batch",
    "group_images_by_shape": "mlx_chandra.reading.batch",
    "load": "mlx_chandra.reading.batch",
    "open_service": "mlx_chandra.engine.service",
    "read_pages": "mlx_chandra.reading.read",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'mlx_chandra' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
