"""Finds the files of a checkpoint's folder that hold its weights, without opening them."""

import json
from pathlib import Path

from mlx_chandra.errors import CheckpointError

_SHOWN = 8  # names in one error message


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files: those the index names where there is one, else all.

    Raises:
        CheckpointError: There are none, or some that the index names are missing.
    """
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise CheckpointError(f"{folder} holds no *.safetensors file.", "Download the checkpoint again.")
        return files
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(
            f"{index} can't be read: {error!r}.", "Download the checkpoint again."
        ) from None
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{folder} lacks {some_of(missing)}, which its index names.", "Download the checkpoint again."
        )
    return [folder / name for name in names]


def some_of(names: list[str]) -> str:
    """Return the first of the names, and how many more there are, for a message."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
