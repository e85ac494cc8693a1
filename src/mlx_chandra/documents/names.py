"""Tells documents by their names, and names the text files of their pages.

A page's text is named after its file's stem; the extension is kept where another document of that folder has
the same stem, letter case aside, or the name isn't a document's. Pages of several add `_p0003`.
"""

import contextlib
import os
import re
from collections import Counter
from collections.abc import Iterable

from mlx_chandra.files.paths import folded

PAGED = frozenset({".pdf", ".tif", ".tiff", ".gif"})
"""Endings of files that may hold several pages."""

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".heic", ".heif", ".avif"})
"""Endings of files that hold one page, which therefore needn't be opened to count it."""

SUFFIXES = PAGED | PICTURES

_PAGE_STEM = re.compile(r"(.+)_p\d{4,}", re.DOTALL)


def suffix_of(name: str) -> str:
    """Return the ending of a name or path in lower case, with its dot; empty where there is none."""
    return os.path.splitext(name)[1].lower()


def is_document_name(name: str) -> bool:
    """Return whether a file of a folder is taken for a document; macOS's `._name` shadow files aren't."""
    return suffix_of(name) in SUFFIXES and not name.startswith("._")


def page_stem(text_stem: str, number: int) -> str:
    """Return what the text file of one page of several is called, without its `_ocr.txt`; counted from 1."""
    return f"{text_stem}_p{number:04}"


def text_stem(name: str, need_more: frozenset[str]) -> str:
    """Return what a document's text files' names start with; `need_more` from `stems_that_need_more`."""
    stem, suffix = os.path.splitext(name)
    if suffix.lower() not in SUFFIXES or folded(stem) in need_more:
        return name
    return stem


def stems_that_need_more(names: Iterable[str]) -> frozenset[str]:
    """Return the folded stems whose documents keep the extension in their texts' names.

    Those that two documents share; those that look like the texts of another one's pages (`a_p0001.png`
    beside `a.pdf`); and then those that would meet such a longer name: beside `a.png` and `a.jpg`, whose
    texts start with `a.png` and `a.jpg`, the picture `a.png.tif` can't be called `a.png` too.
    """
    names = [folded(name) for name in names]
    counts = Counter(os.path.splitext(name)[0] for name in names)
    need = {stem for stem, count in counts.items() if count > 1} | _like_pages(names, counts)
    longer = need
    while longer:
        taken = {name for name in names if os.path.splitext(name)[0] in longer}
        longer = {stem for stem in taken if stem in counts} - need
        need |= longer
    return frozenset(need)


def _like_pages(names: list[str], stems: Iterable[str]) -> set[str]:
    paged = [name for name in names if suffix_of(name) in PAGED]
    if not paged:
        return set()
    starts = {os.path.splitext(name)[0] for name in paged}.union(paged)
    matches = (_PAGE_STEM.fullmatch(stem) for stem in stems)
    return {match[0] for match in matches if match is not None and match[1] in starts}


class FolderStems:
    """Text stems of files that are named one by one; looks at each file's folder once."""

    def __init__(self) -> None:
        self._need_more: dict[str, frozenset[str]] = {}

    def of(self, path: str) -> str:
        """Return the text stem of the file at the full path, as a walk over its folder would name it."""
        folder, name = os.path.split(path)
        if folder not in self._need_more:
            names: list[str] = []
            with contextlib.suppress(OSError):
                names = [each for each in listing(folder) if not each.endswith("/")]
            self._need_more[folder] = stems_that_need_more(names)
        return text_stem(name, self._need_more[folder])


def listing(folder: str) -> dict[str, bool]:
    """Return the names of a folder's documents, and of its folders with a slash behind; True for links.

    Raises OSError where it can't be listed.
    """
    links = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name + "/" if _leads_to_folder(entry) else entry.name
            if name.endswith("/") or is_document_name(name):
                links[name] = entry.is_symlink()
    return links


def _leads_to_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # a link that leads nowhere
