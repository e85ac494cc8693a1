"""Finds the pages a run is about, lazily and in a fixed order: a folder tree, or a manifest of paths.

A source (`Folder` or `Manifest`) can be iterated again and again and gives the same pages as long as the disk
stays the same. Nothing is opened here: whether a file is a picture is `image_files.open_page`'s question.

What a folder gives:
- files whose name ends in one of `SUFFIXES`, in any letter case, in the order of their paths' bytes;
  macOS's `._name` shadow files are left out;
- links: a file or folder inside the tree is read once, under its own name, and links to it are passed over; a
  link to something outside is followed, and what it leads to is read once. A link to a folder that contains
  the tree, or itself, is a loop and is passed over;
- a broken link with a picture's name, and a folder that can't be listed, as a page with an error.

A page's text is named after its stem, except where another picture of that folder has the same stem (letter
case aside) or the name isn't a picture's: then the extension is kept. See `Page.text_stem`.
"""

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO

from mlx_chandra.errors import PageError, UsageError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"})


@dataclass(frozen=True)
class Page:
    """One page to be read.

    Attributes:
        path: The full path. Bytes that aren't UTF-8 stand in it as Python's surrogate escapes.
        below: The page's folder seen from the top of its source, such as `letters/1998`; empty at the top.
        text_stem: What the name of its text file starts with: `a`, or `a.png` where `a` alone isn't unique.
        error: Set when it is already known that this page can't be read.
    """

    path: str
    below: str
    text_stem: str
    error: PageError | None = None


@dataclass(frozen=True)
class Folder:
    """All page images of a folder and the folders in it."""

    root: str

    @classmethod
    def at(cls, path: str) -> "Folder":
        """The source for the folder `path`. Raises UsageError where there is none."""
        if not os.path.exists(path):
            raise UsageError(f"There is no folder {path!r}.", "Check the path after --images-dir.")
        if not os.path.isdir(path):
            raise UsageError(
                f"{path!r} is a file, not a folder.",
                "--images-dir wants a folder; for single files, list them in a text file and use --manifest.",
            )
        return cls(os.path.abspath(path))

    def __iter__(self) -> Iterator[Page]:
        return _Walk(self.root).pages()


@dataclass(frozen=True)
class Manifest:
    """The page images named in a text file, one path a line, in its order and each once.

    A relative path is looked up from the manifest's folder, then from the working directory.

    Attributes:
        file: Full path of the manifest.
        tree: Work out each page's `below`, seen from the deepest folder that holds all of the pages. It costs
            a pass over the manifest, so it is done only where text files go to a tree of their own.
    """

    file: str
    tree: bool = False

    @classmethod
    def at(cls, path: str, tree: bool = False) -> "Manifest":
        """The source for the manifest at `path`. Raises UsageError when it can't be read or isn't UTF-8."""
        try:
            with open(path, "rb") as file:
                start = file.read(2)
        except OSError as error:
            raise UsageError(f"The manifest {path!r} can't be read: {error.strerror}.") from error
        if start in (b"\xff\xfe", b"\xfe\xff"):
            raise UsageError(f"The manifest {path!r} is in UTF-16.", "Save it as UTF-8, one path a line.")
        return cls(os.path.abspath(path), tree)

    def __iter__(self) -> Iterator[Page]:
        top = _common_folder(self._paths()) if self.tree else ""
        kept_in: dict[str, frozenset[str]] = {}
        seen: set[str] = set()
        for path in self._paths():
            if path in seen:
                continue
            seen.add(path)
            folder, name = os.path.split(path)
            if folder not in kept_in:
                kept_in[folder] = _stems_that_need_more(_picture_names(folder))
            below = os.path.relpath(folder, top) if top else ""
            yield Page(path, "" if below == "." else below, _text_stem(name, kept_in[folder]))

    def _paths(self) -> Iterator[str]:
        """Full paths as the manifest names them, duplicates included."""
        home = os.path.dirname(self.file)
        with open(self.file, "rb") as file:
            for line in _lines(file):
                yield _resolve(line, home)


def _lines(file: BinaryIO) -> Iterator[str]:
    """The manifest's lines that say something, as file names."""
    for number, raw in enumerate(file):
        line = raw.removeprefix(b"\xef\xbb\xbf") if number == 0 else raw
        line = line.rstrip(b"\r\n")
        if line.strip() and b"\0" not in line:
            yield os.fsdecode(line)


def _resolve(line: str, home: str) -> str:
    """The full path that a manifest's line means; the first candidate where no such file exists."""
    candidates = [os.path.join(home, line), os.path.abspath(line)]
    candidates += [os.path.join(home, line.strip()), os.path.abspath(line.strip())]
    found = next((path for path in candidates if os.path.lexists(path)), candidates[0])
    if os.pardir in found.split(os.sep):  # folded by the file system's rules: a link may stand before the ..
        folder, name = os.path.split(found)
        found = os.path.join(os.path.realpath(folder), name)
    return os.path.normpath(found)


def _common_folder(paths: Iterable[str]) -> str:
    common = ""
    for path in paths:
        folder = os.path.dirname(path)
        common = os.path.commonpath([common, folder]) if common else folder
    return common


@dataclass(frozen=True)
class _Place:
    """A folder on the way: as the user sees it, as it really is, and seen from the top."""

    path: str
    real: str
    below: str


class _Walk:
    """One pass over a folder tree. Memory: one folder's names for each level, and what lies outside."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._real_root = os.path.realpath(root)
        self._met: set[str] = set()  # real paths of links' targets and of all that lies outside the tree

    def pages(self) -> Iterator[Page]:
        open_folders = [self._entries(_Place(self._root, self._real_root, ""))]
        while open_folders:
            entry = next(open_folders[-1], None)
            if entry is None:
                open_folders.pop()
            elif isinstance(entry, _Place):
                open_folders.append(self._entries(entry))
            else:
                yield entry

    def _entries(self, place: _Place) -> Iterator[Page | _Place]:
        """The folder's pages and folders in the order of their paths' bytes."""
        names: list[str] = []  # a folder's name ends in a slash, which also sorts it where its pages belong
        links: set[str] = set()
        try:
            with os.scandir(place.path) as listing:
                for entry in listing:
                    name = entry.name + "/" if _leads_to_folder(entry) else entry.name
                    if name.endswith("/") or _is_picture_name(name):
                        names.append(name)
                        if entry.is_symlink():
                            links.add(name)
        except OSError as error:
            trouble = PageError("unreadable", f"the folder can't be listed: {error.strerror}")
            yield Page(place.path, place.below, "", trouble)
            return
        names.sort(key=os.fsencode)
        kept = _stems_that_need_more(name for name in names if not name.endswith("/"))
        for name in names:
            if name.endswith("/"):
                found: Page | _Place | None = self._folder(place, name[:-1], name in links)
            else:
                found = self._page(place, name, name in links, kept)
            if found is not None:
                yield found

    def _folder(self, place: _Place, name: str, is_link: bool) -> _Place | None:
        path = os.path.join(place.path, name)
        real = os.path.realpath(path) if is_link else os.path.join(place.real, name)
        if is_link and (_inside(real, self._real_root) or _inside(self._real_root, real)):
            return None  # the walk comes there anyway, or is there already
        if not _inside(real, self._real_root) and not self._first_time(real):
            return None
        return _Place(path, real, os.path.join(place.below, name))

    def _page(self, place: _Place, name: str, is_link: bool, kept: frozenset[str]) -> Page | None:
        page = Page(os.path.join(place.path, name), place.below, _text_stem(name, kept))
        if not is_link:
            in_tree = _inside(place.real, self._real_root)  # where the walk comes once only
            return page if in_tree or self._first_time(os.path.join(place.real, name)) else None
        if not os.path.exists(page.path):
            return replace(page, error=_broken_link(page.path))
        real = os.path.realpath(page.path)
        if _inside(real, self._real_root) and _is_picture_name(os.path.basename(real)):
            return None  # it is read under its own name
        return page if self._first_time(real) else None

    def _first_time(self, real: str) -> bool:
        """Whether this real path is met for the first time; notes it."""
        if real in self._met:
            return False
        self._met.add(real)
        return True


def _leads_to_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # a link that leads nowhere


def _broken_link(path: str) -> PageError:
    try:
        target = os.fsencode(os.readlink(path)).decode("utf-8", "replace")
    except OSError as error:
        return PageError("broken-link", f"the link can't be read: {error.strerror}")
    return PageError("broken-link", f"the link leads to {target}, which isn't there or leads back here")


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _is_picture_name(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith("._")


def _picture_names(folder: str) -> list[str]:
    try:
        with os.scandir(folder) as listing:
            return [e.name for e in listing if _is_picture_name(e.name) and not _leads_to_folder(e)]
    except OSError:
        return []


def _fold(name: str) -> str:
    """The name as a file system that ignores letter case would compare it."""
    return name.casefold() if name.isascii() else unicodedata.normalize("NFC", name).casefold()


def _stems_that_need_more(names: Iterable[str]) -> frozenset[str]:
    """The folded stems whose pictures keep the extension in their text's name.

    Those that two pictures share; and then those that would meet such a longer name: beside `a.png` and
    `a.jpg`, whose texts start with `a.png` and `a.jpg`, the picture `a.png.tif` can't be called `a.png` too.
    """
    names = [_fold(name) for name in names]
    counts = Counter(os.path.splitext(name)[0] for name in names)
    need = {stem for stem, count in counts.items() if count > 1}
    longer = need
    while longer:
        taken = {name for name in names if os.path.splitext(name)[0] in longer}
        longer = {stem for stem in taken if stem in counts} - need
        need |= longer
    return frozenset(need)


def _text_stem(name: str, need_more: frozenset[str]) -> str:
    stem, suffix = os.path.splitext(name)
    if suffix.lower() not in SUFFIXES or _fold(stem) in need_more:
        return name
    return stem
