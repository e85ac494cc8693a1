"""Finds a model's checkpoint: the bundled demo, a folder, or one from the hub; and its files of weights."""

import json
from pathlib import Path

from mlx_chandra.demo import checkpoint_folder
from mlx_chandra.errors import CheckpointError, ModelNotFoundError

DEMO = "demo"
_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt"]
_SHOWN = 8  # names in one error message
_DEMO_WORKS = "`--model demo` works offline (a small model for trying things out)."


def resolve_checkpoint(name_or_path: str | Path) -> Path:
    """Return the folder of a checkpoint, downloaded first if it is a hub name that isn't cached yet.

    Args:
        name_or_path: "demo", a folder, or a hub name such as "mlx-community/chandra-bf16".

    Raises:
        ModelNotFoundError: There is no such folder, or the hub can't be reached or doesn't have it.
    """
    folder = _folder(name_or_path)
    if folder is not None:
        return folder
    name = str(name_or_path)
    if not _is_hub_name(name_or_path):
        raise ModelNotFoundError(f"The model folder {name} does not exist.", f"Check the path; {_DEMO_WORKS}")
    return _download(name)


def cached_checkpoint(name_or_path: str | Path) -> Path | None:
    """Return the folder of a checkpoint that is on this machine; None where it isn't. Asks no network."""
    folder = _folder(name_or_path)
    if folder is not None or not _is_hub_name(name_or_path):
        return folder
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(name_or_path), allow_patterns=_FILES, local_files_only=True))
    except Exception:  # as in _download; it isn't here
        return None


def _folder(name_or_path: str | Path) -> Path | None:
    if str(name_or_path) == DEMO:
        return checkpoint_folder()
    folder = Path(name_or_path).expanduser()
    return folder if folder.is_dir() else None


def _is_hub_name(name_or_path: str | Path) -> bool:
    name = str(name_or_path)
    if isinstance(name_or_path, Path) or Path(name).expanduser().is_absolute():
        return False
    return not name.startswith((".", "~")) and name.count("/") == 1


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download  # slow to import, and only needed for hub names

    try:
        return Path(snapshot_download(name, allow_patterns=_FILES))
    except Exception as error:  # the hub's client raises its own, its HTTP library's and the system's
        reason = str(error).strip().splitlines()
        raise ModelNotFoundError(
            f"The model {name} is not cached here and could not be downloaded: "
            f"{reason[0] if reason else type(error).__name__}",
            f"Check the name and the network connection; {_DEMO_WORKS}",
        ) from error


def weight_files(folder: Path) -> list[Path]:
    """Return a folder's safetensors files, unopened: those its index names where there is one, else all.

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
