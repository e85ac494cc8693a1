"""Documents that are listed, one path a line, in a text file or in what another program writes."""

import io
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from mlx_chandra.documents.names import FolderStems
from mlx_chandra.documents.page import Document
from mlx_chandra.errors import UsageError


@dataclass(frozen=True)
class Manifest:
    """The documents named in a text file, one path a line, in its order and each once.

    A relative path is looked up from the manifest's folder, then from the working directory.

    Attributes:
        file: Full path of the manifest.
        tree: Work out each document's `below`, seen from the deepest folder that holds all of them. It costs
            a pass over the manifest, so it is done only where text files go to a tree of their own.
        content: What it says, where that can't be read from `file` again and again.
    """

    file: str
    tree: bool = False
    content: bytes | None = None

    @classmethod
    def at(cls, path: str, tree: bool = False) -> "Manifest":
        """The source for the manifest at `path`. Raises UsageError when it can't be read or isn't UTF-8."""
        try:
            with open(path, "rb") as file:
                start = file.read(2)
        except OSError as error:
            raise UsageError(f"The manifest {path!r} can't be read: {error.strerror}.") from error
        _check_encoding(start, f"The manifest {path!r}")
        return cls(os.path.abspath(path), tree)

    @classmethod
    def from_stream(cls, stream: BinaryIO, tree: bool = False) -> "Manifest":
        """The source for a manifest that comes through a pipe, read to its end here and kept in memory.

        Its relative paths are looked up from the working directory. Raises UsageError when it isn't UTF-8.
        """
        content = stream.read()
        _check_encoding(content[:2], "The manifest on standard input")
        return cls(os.path.join(os.getcwd(), "standard input"), tree, content)

    def __iter__(self) -> Iterator[Document]:
        top = _common_folder(self._paths()) if self.tree else ""
        stems = FolderStems()
        seen: set[str] = set()
        for path in self._paths():
            if path in seen:
                continue
            seen.add(path)
            below = os.path.relpath(os.path.dirname(path), top) if top else ""
            yield Document(path, "" if below == "." else below, stems.of(path))

    def _paths(self) -> Iterator[str]:
        """Full paths as the manifest names them, duplicates included."""
        home = os.path.dirname(self.file)
        with open(self.file, "rb") if self.content is None else io.BytesIO(self.content) as file:
            for line in _lines(file):
                yield _resolve(line, home)


def _check_encoding(start: bytes, manifest: str) -> None:
    if start in (b"\xff\xfe", b"\xfe\xff"):
        raise UsageError(f"{manifest} is in UTF-16.", "Save it as UTF-8, one path a line.")


def _lines(file: BinaryIO) -> Iterator[str]:
    """The manifest's lines that say something, as file names."""
    for number, raw in enumerate(file):
        line = raw.removeprefix(b"\xef\xbb\xbf") if number == 0 else raw
        line = line.rstrip(b"\r\n")
        if line.strip() and b"\0" not in line:
            yield os.fsdecode(line)


def _resolve(line: str, home: str) -> str:
    """The full path that a manifest's line means; the first candidate where no such file exists."""
    first = os.path.join(home, line)
    found = first if os.path.lexists(first) else _elsewhere(line, home) or first
    if os.pardir in found.split(os.sep):  # folded by the file system's rules: a link may stand before the ..
        folder, name = os.path.split(found)
        found = os.path.join(os.path.realpath(folder), name)
    return os.path.normpath(found)


def _elsewhere(line: str, home: str) -> str | None:
    """Where else the file of a line is: seen from the working directory, or without spaces around it."""
    bare = line.strip()
    candidates = (os.path.abspath(line), os.path.join(home, bare), os.path.abspath(bare))
    return next((path for path in candidates if os.path.lexists(path)), None)


def _common_folder(paths: Iterable[str]) -> str:
    common = ""
    for path in paths:
        folder = os.path.dirname(path)
        common = os.path.commonpath([common, folder]) if common else folder
    return common
