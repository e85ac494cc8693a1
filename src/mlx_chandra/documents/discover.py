"""Finds the documents of a folder tree, lazily and in a fixed order.

A source (`Folder`, and `Manifest` and `Named` in the files beside) can be iterated any number of times, and
gives the same documents as long as the disk stays the same. Nothing is opened here; `pages.pages_of` counts
pages.

What a folder gives:
- files whose name ends in one of `names.SUFFIXES`, in any letter case, in the order of their paths' bytes;
  macOS's `._name` shadow files are left out;
- links: a file or folder inside the tree is read once, under its own name, and links to it are passed over; a
  link to something outside is followed, and what it leads to is read once. A link to a folder that contains
  the tree, or itself, is a loop and is passed over;
- a broken link with a document's name, and a folder that can't be listed, as a document with an error.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

from mlx_chandra.documents.names import is_document_name, leads_to_folder, stems_that_need_more, text_stem
from mlx_chandra.documents.page import Document
from mlx_chandra.errors import PageError, UsageError


@dataclass(frozen=True)
class Folder:
    """All documents of a folder and the folders in it."""

    root: str

    @classmethod
    def at(cls, path: str) -> "Folder":
        """The source for the folder `path`. Raises UsageError where there is none."""
        if not os.path.exists(path):
            raise UsageError(f"There is no folder {path!r}.", "Check the path after --images-dir.")
        if not os.path.isdir(path):
            raise UsageError(
                f"{path!r} is a file, not a folder.",
                f"--images-dir wants a folder; a file is named without it: mlx-chandra ocr {path!r} ...",
            )
        return cls(os.path.abspath(path))

    def __iter__(self) -> Iterator[Document]:
        return _Walk(self.root).documents()


@dataclass(frozen=True)
class _Place:
    """A folder of the tree: its path as the user sees it, its real path, and its path from the top."""

    path: str
    real: str
    below: str


class _Walk:
    """One pass over a folder tree. Memory: one folder's names for each level, and what lies outside."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._real_root = os.path.realpath(root)
        self._met: set[str] = set()  # real paths of links' targets and of all that lies outside the tree

    def documents(self) -> Iterator[Document]:
        open_folders = [self._entries(_Place(self._root, self._real_root, ""))]
        while open_folders:
            entry = next(open_folders[-1], None)
            if entry is None:
                open_folders.pop()
            elif isinstance(entry, _Place):
                open_folders.append(self._entries(entry))
            else:
                yield entry

    def _entries(self, place: _Place) -> Iterator[Document | _Place]:
        """The folder's documents and folders in the order of their paths' bytes."""
        names: list[str] = []  # a folder's name ends in a slash, which also sorts it where its files belong
        links: set[str] = set()
        try:
            with os.scandir(place.path) as listing:
                for entry in listing:
                    name = entry.name + "/" if leads_to_folder(entry) else entry.name
                    if name.endswith("/") or is_document_name(name):
                        names.append(name)
                        if entry.is_symlink():
                            links.add(name)
        except OSError as error:
            trouble = PageError("unreadable", f"the folder can't be listed: {error.strerror}")
            yield Document(place.path, place.below, "", trouble)
            return
        names.sort(key=os.fsencode)
        kept = stems_that_need_more(name for name in names if not name.endswith("/"))
        for name in names:
            if name.endswith("/"):
                found: Document | _Place | None = self._folder(place, name[:-1], name in links)
            else:
                found = self._document(place, name, name in links, kept)
            if found is not None:
                yield found

    def _folder(self, place: _Place, name: str, is_link: bool) -> _Place | None:
        path = os.path.join(place.path, name)
        real = os.path.realpath(path) if is_link else os.path.join(place.real, name)
        if is_link and (_inside(real, self._real_root) or _inside(self._real_root, real)):
            return None  # inside the tree, or around it
        if not _inside(real, self._real_root) and not self._first_time(real):
            return None
        return _Place(path, real, os.path.join(place.below, name))

    def _document(self, place: _Place, name: str, is_link: bool, kept: frozenset[str]) -> Document | None:
        document = Document(os.path.join(place.path, name), place.below, text_stem(name, kept))
        if not is_link:
            in_tree = _inside(place.real, self._real_root)  # such folders are walked once only
            return document if in_tree or self._first_time(os.path.join(place.real, name)) else None
        if not os.path.exists(document.path):
            return replace(document, error=_broken_link(document.path))
        real = os.path.realpath(document.path)
        if _inside(real, self._real_root) and is_document_name(os.path.basename(real)):
            return None  # it is read under its own name
        return document if self._first_time(real) else None

    def _first_time(self, real: str) -> bool:
        """Whether this real path is met for the first time; notes it."""
        if real in self._met:
            return False
        self._met.add(real)
        return True


def _broken_link(path: str) -> PageError:
    try:
        target = os.fsencode(os.readlink(path)).decode("utf-8", "replace")
    except OSError as error:
        return PageError("broken-link", f"the link can't be read: {error.strerror}")
    return PageError("broken-link", f"the link leads to {target}, which isn't there or leads back here")


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")
