"""Names documents' folders, and reads what their metadata says of the files in them.

A folder has the stem of its document's name, with digits of the hash of the document's path where that is
taken. `source` in its metadata says whose it is, so a document keeps its folder.
"""

import hashlib
import json
import os
import threading
from collections.abc import Iterator, Mapping

from mlx_chandra.files.disk import PART_END, PART_START
from mlx_chandra.files.paths import folded, shown_path

_LONGEST = 200  # bytes of a folder's name; the files in it have some more
_DIGITS = (8, 32, 64)


def metadata_name(name: str) -> str:
    """Return the name of the metadata file in the folder of this name."""
    return f"{name}_metadata.json"


def read_metadata(folder: str, name: str) -> Mapping[str, object]:
    """Return what the metadata of a document's folder says; empty where there is none that can be read."""
    try:
        with open(os.path.join(folder, name, metadata_name(name)), encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError, RecursionError):  # nested deeper than Python's parser goes
        return {}
    return found if isinstance(found, dict) else {}


def file_names(metadata: Mapping[str, object]) -> list[str]:
    """Return the files that the metadata lists, without what is no name of a file in its own folder."""
    files = metadata.get("files")
    names = files if isinstance(files, list) else []
    return [n for n in names if isinstance(n, str) and n == os.path.basename(n) and n not in ("", ".", "..")]


def stored_digest(source: str, name: str, how: str, folder: str) -> str | None:
    """Return the digest of the pages that the files in a document's folder `name` were made of.

    None where they aren't the document's or complete, were made in another way than `how`, or are missing.
    """
    metadata = read_metadata(folder, name)
    files = file_names(metadata)
    stamp = [metadata.get(key) for key in ("source", "complete", "how", "files")]
    there = all(os.path.exists(os.path.join(folder, name, file)) for file in files)
    return str(metadata.get("digest")) if there and stamp == [shown_path(source), True, how, files] else None


class Folders:
    """Names the folders of documents in one folder, each one once. Can be used by several threads."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._mutex = threading.Lock()
        self._names: dict[str, str] = {}  # by shown path
        self._taken: set[str] = set()  # folded names that documents of this run have
        self._on_disk = _listing(folder)  # names by their folded form

    def name_of(self, source: str, text_stem: str) -> str:
        """Return the name of the folder of the document with this full path; the first to ask gets a name."""
        shown = shown_path(source)
        with self._mutex:
            if shown not in self._names:
                names = list(_candidates(shown, text_stem))
                free = next((name for name in names if self._is_free(name)), names[-1])
                self._names[shown] = name = self._own_name(shown, text_stem) or free
                self._taken.add(folded(name))
            return self._names[shown]

    def _own_name(self, shown: str, text_stem: str) -> str | None:
        """Return the name of the folder that the document has already, under any of its stems."""
        base = os.path.basename(shown)
        for stem in dict.fromkeys((text_stem, os.path.splitext(base)[0], base)):
            for name in _candidates(shown, stem):
                there = folded(name) in self._on_disk
                if there and read_metadata(self._folder, name).get("source") == shown:
                    return name
        return None

    def _is_free(self, name: str) -> bool:
        key = folded(name)
        return key not in self._taken and all(
            _is_unused(os.path.join(self._folder, there)) for there in (name, self._on_disk.get(key, name))
        )


def _candidates(shown: str, text_stem: str) -> Iterator[str]:
    """Yield the names that a document's folder may have, the best one first."""
    stem = os.path.basename(shown_path(text_stem)) or os.path.basename(shown)
    stem = "root" if stem in ("", ".", "..") else stem
    if len(stem.encode()) <= _LONGEST:
        yield stem
    digest = hashlib.sha256(shown.encode()).hexdigest()
    for digits in _DIGITS:
        short = stem.encode()[: _LONGEST - digits - 1].decode(errors="ignore")
        yield f"{short}-{digest[:digits]}"


def _is_unused(path: str) -> bool:
    """Whether nothing is there, or a folder that a killed run had only just begun."""
    if not os.path.lexists(path):
        return True
    try:
        return all(name.startswith(PART_START) and name.endswith(PART_END) for name in os.listdir(path))
    except OSError:
        return False


def _listing(folder: str) -> Mapping[str, str]:
    try:
        return {folded(name): name for name in os.listdir(folder)}
    except OSError:  # there is none yet; writing says what else may be wrong
        return {}
