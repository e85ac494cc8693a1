"""Finds the documents that a list names, in a text file or in what another program writes."""

import io
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from mlx_chandra.documents.names import FolderStems
from mlx_chandra.documents.page import Document
from mlx_chandra.errors import UsageError


@dataclass(frozen=True)
class Manifest:
    """The documents named in a text file, one path a line, in its order and each once.

    A relative path is looked up from the manifest's folder, then from the working directory. Blank lines and
    lines that begin with `#` are skipped; `./#a.png` names a file that begins so. Where there is a NUL, as
    `find -print0` writes it, paths end in NUL instead of line ends, and `#` means nothing.

    Attributes:
        file: Full path of the manifest.
        content: What it says.
        tree: Work out each document's `below`, seen from the deepest folder that holds all of them.
    """

    file: str
    content: bytes
    tree: bool = False

    @classmethod
    def at(cls, path: str, tree: bool = False) -> "Manifest":
        """Return the source for the manifest at `path`. Raises UsageError: can't be read, or isn't UTF-8."""
        try:
            with open(path, "rb") as file:
                is_regular = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
                content = file.read()
        except OSError as error:
            raise UsageError(f"The manifest {path!r} can't be read: {error.strerror}.") from error
        _check_encoding(content, f"The manifest {path!r}")
        # /dev/fd/63 of `<(...)` lies in no folder that paths are meant from
        return cls(os.path.abspath(path if is_regular else os.path.basename(path)), content, tree)

    @classmethod
    def from_stream(cls, stream: BinaryIO, tree: bool = False) -> "Manifest":
        """Return the source for a manifest on standard input. Raises UsageError when it isn't UTF-8.

        Its relative paths are looked up from the working directory.
        """
        content = stream.read()
        _check_encoding(content, "The manifest on standard input")
        return cls(os.path.abspath("standard input"), content, tree)

    def __iter__(self) -> Iterator[Document]:
        top = _common_folder(self._paths()) if self.tree else ""
        stems, seen = FolderStems(), set[str]()
        for path in self._paths():
            if path in seen:
                continue
            seen.add(path)
            below = os.path.relpath(os.path.dirname(path), top) if top else ""
            yield Document(path, "" if below == "." else below, stems.of(path))

    def _paths(self) -> Iterator[str]:
        """Yield full paths as the manifest names them, duplicates included."""
        home, content = os.path.dirname(self.file), self.content.removeprefix(b"\xef\xbb\xbf")
        ends_in_nul = b"\0" in content
        for raw in content.split(b"\0") if ends_in_nul else io.BytesIO(content):
            line = raw if ends_in_nul else raw.rstrip(b"\r\n")
            if line.strip() and (ends_in_nul or not line.startswith(b"#")):
                yield _resolve(os.fsdecode(line), home)


def _check_encoding(content: bytes, manifest: str) -> None:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UsageError(f"{manifest} is in UTF-16.", "Save it as UTF-8, one path a line.")


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
