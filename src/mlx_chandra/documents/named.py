"""Finds the documents that paths lead to: files, folders and patterns, mixed as people type them."""

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from mlx_chandra.documents.discover import Folder
from mlx_chandra.documents.names import FolderStems, is_document_name
from mlx_chandra.documents.page import Document
from mlx_chandra.errors import UsageError


@dataclass(frozen=True)
class Named:
    """What full paths and patterns lead to, in their order and each document once.

    A file is taken whatever its name; a folder gives what `Folder` finds in it; a pattern gives the files
    with a document's name and the folders that match it, in the order of their paths' bytes, and `**` in it
    stands for folders in folders. A path that exists is no pattern, whatever signs are in it.
    """

    places: tuple[str, ...]

    @classmethod
    def at(cls, paths: Sequence[str]) -> "Named":
        """Return the source for these paths. Raises UsageError for one that leads nowhere."""
        for path in paths:
            if os.path.lexists(path):
                continue
            if not glob.has_magic(path):
                raise UsageError(f"There is no file or folder {path!r}.", "Check the spelling of the path.")
            if next(glob.iglob(path, recursive=True), None) is None:
                raise UsageError(f"Nothing matches {path!r}.", "Check the pattern and where it begins.")
        return cls(tuple(os.path.abspath(path) for path in paths))

    def __iter__(self) -> Iterator[Document]:
        top = os.path.commonpath([_fixed_folder(place) for place in self.places])
        stems, seen = FolderStems(), set[str]()
        for place in self.places:
            for path in _matches(place):
                for document in _documents(path, top, stems):
                    if document.path not in seen:
                        seen.add(document.path)
                        yield document


def _fixed_folder(place: str) -> str:
    """Return the deepest folder that surely holds all that a place leads to."""
    if os.path.isdir(place):
        return place
    if os.path.lexists(place):
        return os.path.dirname(place)
    while glob.has_magic(place):
        place = os.path.dirname(place)
    return place


def _matches(place: str) -> Iterator[str]:
    """Yield the place itself, or the files and folders that match it."""
    if os.path.lexists(place):
        yield place
        return
    for path in sorted(glob.iglob(place, recursive=True), key=os.fsencode):
        if os.path.isdir(path):
            if "**" not in place:  # which comes to the files in it by itself
                yield path
        elif is_document_name(os.path.basename(path)):
            yield path


def _documents(path: str, top: str, stems: FolderStems) -> Iterator[Document]:
    folder = path if os.path.isdir(path) else os.path.dirname(path)
    start = os.path.relpath(folder, top)
    if folder != path:
        yield Document(path, "" if start == "." else start, stems.of(path))
        return
    for document in Folder(path):
        yield document if start == "." else replace(document, below=os.path.join(start, document.below))
