"""Fingerprints of checkpoints, wherever they lie and whatever they are called.

Its small files are taken whole, its weights by their sizes and samples: to hash 17 GB would take longer than
to load them. Training changes nearly every number of a tensor, so samples spread over a file notice it. Where
a folder lies, its model card, and the times of its files don't count.
"""

import hashlib
from pathlib import Path

from mlx_chandra.errors import MlxChandraError
from mlx_chandra.models.hub import cached_checkpoint, weight_files

_SMALL_FILES = (".json", ".jinja", ".txt")
_SAMPLES, _SAMPLE = 64, 4096  # of each file of weights; bytes
_DIGITS = 32


def fingerprint(name_or_path: str | Path) -> str | None:
    """Return the fingerprint of a checkpoint that is on this machine; None where it isn't, or isn't whole.

    Args:
        name_or_path: "demo", a folder, or a hub name. Nothing is downloaded.
    """
    folder = cached_checkpoint(name_or_path)
    if folder is None:
        return None
    digest = hashlib.sha256()
    try:
        for path in sorted(folder.iterdir()):
            if path.suffix in _SMALL_FILES and not path.name.startswith("."):
                content = path.read_bytes()
                digest.update(f"{path.name} {len(content)}\n".encode() + content)
        for path in weight_files(folder):
            _add_samples(digest, path)
    except (OSError, MlxChandraError):
        return None
    return digest.hexdigest()[:_DIGITS]


def _add_samples(digest: "hashlib._Hash", path: Path) -> None:
    size = path.stat().st_size
    digest.update(f"{size}\n".encode())
    with path.open("rb") as file:
        for number in range(_SAMPLES):
            file.seek(max(0, size - _SAMPLE) * number // (_SAMPLES - 1))
            digest.update(file.read(_SAMPLE))
