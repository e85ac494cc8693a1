"""Finds the documents of a folder tree, lazily and in a fixed order.

A source (`Folder`, and `Manifest` and `Named` in the files beside) can be iterated any number of times, and
gives the same documents as long as the disk stays the same. It opens none of them.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass

from mlx_chandra.documents.names import is_document_name, listing, stems_that_need_more, text_stem
from mlx_chandra.documents.page import Document
from mlx_chandra.errors import PageError, UsageError


@dataclass(frozen=True)
class Folder:
    """All documents of a folder and the folders in it, in the order of their paths' bytes.

    - A file or folder inside the tree is read once, under its own name, and links to it are passed over.
    - A link to something outside is followed, and what it leads to is read once.
    - A link to a folder that contains the tree, or itself, is a loop and is passed over.
    - A broken link with a document's name, and a folder that can't be listed, are documents with an error.
    """

    root: str

    @classmethod
    def at(cls, path: str) -> "Folder":
        """Return the source for the folder `path`. Raises UsageError where there is none."""
        if not os.path.exists(path):
            raise UsageError(f"There is no folder {path!r}.", "Check the path after --images-dir.")
        if not os.path.isdir(path):
            raise UsageError(
                f"{path!r} is a file, not a folder.",
                f"--images-dir wants a folder; a file is named without it: mlx-chandra ocr {path!r} ...",
            )
        return cls(os.path.abspath(path))

    def __iter__(self) -> Iterator[Document]:
        walk = _Walk(self.root)
        open_folders = [walk.entries(self.root, "")]
        while open_folders:
            entry = next(open_folders[-1], None)
            if entry is None:
                open_folders.pop()
            elif isinstance(entry, Document):
                yield entry
            else:
                open_folders.append(walk.entries(*entry))


_Place = tuple[str, str]  # a folder's full path, and its path from the top


class _Walk:
    """One pass over a folder tree. Memory: one folder's names for each level, and what lies outside."""

    def __init__(self, root: str) -> None:
        self._root = os.path.realpath(root)
        self._met: set[str] = set()  # real paths of links' targets and of all that lies outside the tree

    def entries(self, folder: str, below: str) -> Iterator[Document | _Place]:
        """Yield the folder's documents and folders in the order of their paths' bytes."""
        try:
            links = listing(folder)
        except OSError as error:
            trouble = PageError("unreadable", f"the folder can't be listed: {error.strerror}")
            yield Document(folder, below, "", trouble)
            return
        kept = stems_that_need_more(name for name in links if not name.endswith("/"))
        real = os.path.realpath(folder)
        for name in sorted(links, key=os.fsencode):  # a folder's slash sorts it where its files belong
            is_link, is_folder, bare = links[name], name.endswith("/"), name.rstrip("/")
            path = os.path.join(folder, bare)
            target = os.path.realpath(path) if is_link else os.path.join(real, bare)
            if is_link and not os.path.exists(path):
                yield Document(path, below, text_stem(name, kept), _broken_link(path))
            elif self._is_new(target, is_link, is_folder):
                document = Document(path, below, text_stem(name, kept))
                yield (path, os.path.join(below, bare)) if is_folder else document

    def _is_new(self, real: str, is_link: bool, is_folder: bool) -> bool:
        """Return whether what lies at the real path is to be read here, and not under another name."""
        inside = _inside(real, self._root)
        if inside and not is_link:
            return True
        if inside and (is_folder or is_document_name(os.path.basename(real))):
            return False  # it is read under its own name
        if real in self._met or _inside(self._root, real):
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
