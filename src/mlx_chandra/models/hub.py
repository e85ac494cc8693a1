"""Resolves a model's name to a folder on this machine: the bundled demo, a folder, or one from the hub."""

from pathlib import Path

from mlx_chandra.demo import checkpoint_folder
from mlx_chandra.errors import ModelNotFoundError

DEMO = "demo"
_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt"]
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
    except (
        Exception
    ) as error:  # the hub's client raises errors of its own, its HTTP library's and the system's
        reason = str(error).strip().splitlines()
        raise ModelNotFoundError(
            f"The model {name} is not cached here and could not be downloaded: "
            f"{reason[0] if reason else type(error).__name__}",
            f"Check the name and the network connection; {_DEMO_WORKS}",
        ) from error
