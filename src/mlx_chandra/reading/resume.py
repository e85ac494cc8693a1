"""Decides which pages of the input must be read: what an earlier run stored, and what has the same bytes.

A stored page counts as current while its file holds the bytes that were read, with the same model and
settings. A page that is imported from a CSV alone counts by its path. So does one whose file can't be read
any more, and one that failed: those are read again when the user asks for it.

Files are hashed when their turn comes, and not again while their size and time of change stay as they were.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol

from mlx_chandra.documents.content import Stamp, content_hash, stamp_of
from mlx_chandra.documents.page import Document, Page, PageResult
from mlx_chandra.documents.pages import Reading, pages_of
from mlx_chandra.documents.selection import PageSelection
from mlx_chandra.errors import PageState, state_of
from mlx_chandra.reading.loader import Copied

_RECENT_HASHES = 8  # files; the pages of one document ask for the same hash one after another


class Facts(Protocol):
    """What a store says of a page; see `store.StoredFacts`."""

    @property
    def status(self) -> str: ...
    @property
    def content(self) -> str | None: ...
    @property
    def same_settings(self) -> bool: ...
    @property
    def again(self) -> bool: ...
    @property
    def this_run(self) -> bool: ...
    @property
    def file(self) -> tuple[int, int, str] | None: ...


class Memory(Protocol):
    """The part of a store that is asked here; see `store.Store`."""

    @property
    def count(self) -> int: ...
    def known(self, page: Page) -> Facts | None: ...
    def same_content(self, content: str, number: int, this_run: bool) -> Iterator[tuple[str, str]]: ...
    def file_content(self, path: str, size: int, mtime_ns: int) -> str | None: ...
    def remember_file(self, path: str, size: int, mtime_ns: int, content: str) -> None: ...
    def result(self, path: str) -> PageResult | None: ...
    def pages_of(self, document: str) -> list[str]: ...


@dataclass(frozen=True)
class Plan:
    """What is to be done for one document.

    Attributes:
        document: Which one, by the path under which it is stored.
        pages: Its pages that were asked for. A stored document that is not opened is one page.
        todo: Those that need a result: to be read, or copied from a page with the same bytes.
        vanished: Paths of stored pages that the document doesn't have any more.
    """

    document: Document
    pages: Sequence[Page]
    todo: Sequence[Page | Copied]
    vanished: Sequence[str]


class Resume:
    """Plans documents. Can be asked from several threads; no lock is held while a file is read.

    Args:
        memory: The store.
        reading: How documents are read.
    """

    def __init__(self, memory: Memory, reading: Reading) -> None:
        self._memory, self._reading = memory, reading
        self._is_new = not memory.count  # nothing was stored before
        self._hashes = _Hashes(memory)
        self._lock = threading.Lock()
        self._in_work: dict[str, str | None] = {}  # content, by the path of a page without a result yet
        self._first: dict[tuple[str, int], str] = {}  # path of the page that is being read, by its content
        self._copied: dict[tuple[str, int], str] = {}  # path of the first page that copies, by its content

    def plan(self, document: Document) -> Plan:
        """Find a document's pages and those of them that need a result. Opens and hashes files."""
        document = self._as_stored(document)
        pages, left = self._left(document, self._needs_result)
        is_whole = self._reading.pages == PageSelection() and pages[0].number is not None
        vanished = self._vanished(pages) if is_whole else []
        return Plan(document, pages, [self._or_copy(page) for page in left], vanished)

    def count(self, document: Document) -> int:
        """How many pages of a document this run reads or copies, those with a result by now included."""
        return len(self._left(self._as_stored(document), self._needed_result)[1])

    def content_of(self, page: Page) -> str | None:
        """The hash of the file that a page in work is of."""
        with self._lock:
            return self._in_work.get(page.path)

    def in_work(self, path: str) -> bool:
        """Whether the page at this path was planned and has no result yet."""
        with self._lock:
            return path in self._in_work

    def release(self, results: Sequence[PageResult]) -> None:
        """Note that pages are stored: further pages with the same bytes find them in the store."""
        with self._lock:
            for result in results:
                path = result.page.path
                key = (self._in_work.pop(path, None) or "", result.page.number or 0)
                for claims in (self._first, self._copied):
                    if claims.get(key) == path:
                        del claims[key]

    def _as_stored(self, document: Document) -> Document:
        """The document by its resolved path where that is stored: an earlier script's CSV has such paths."""
        real = _resolved(document.path)
        if real == document.path or self._is_new or self._is_stored(document):
            return document
        resolved = replace(document, path=real)
        return resolved if self._is_stored(resolved) else document

    def _is_stored(self, document: Document) -> bool:
        return self._memory.known(Page(document)) is not None or bool(self._memory.pages_of(document.path))

    def _left(self, document: Document, needed: Callable[[Page], bool]) -> tuple[list[Page], list[Page]]:
        whole = Page(document)
        if not needed(whole):
            return [whole], []  # stored under its own path, so it need not be opened
        pages = list(pages_of(document, self._reading))
        return pages, [page for page in pages if page.number is None or needed(page)]

    def _needs_result(self, page: Page) -> bool:
        facts = self._memory.known(page)
        return facts is None or facts.again or not self._is_current(page, facts)

    def _needed_result(self, page: Page) -> bool:
        """Whether the page needed a result when the run began."""
        facts = self._memory.known(page)
        return facts is None or facts.again or facts.this_run or not self._is_current(page, facts)

    def _is_current(self, page: Page, facts: Facts) -> bool:
        stamp = None if state_of(facts.status) is PageState.ERROR else stamp_of(page.document.path)
        if stamp is None:
            return True
        if facts.file is not None and facts.file[:2] == (stamp.size, stamp.mtime_ns):
            now: str | None = facts.file[2]
        else:
            now = self._hashes.of(page.document.path)
        return now is None or (facts.same_settings and facts.content in (None, now))

    def _or_copy(self, page: Page) -> Page | Copied:
        """The page, or a copy of another page's result that has the same bytes and settings.

        A page that the user wants read again is copied only from one that this run reads.
        """
        content = self._hashes.of(page.document.path)
        facts = self._memory.known(page)
        again = facts is not None and facts.again
        with self._lock:
            self._in_work[page.path] = content
            if content is None or page.error is not None:
                return page
            key = (content, page.number or 0)
            if key in self._first:
                return Copied(page, self._first[key])
            result = self._stored(page, content, again)
            if result is not None:
                self._copied.setdefault(key, page.path)
                return Copied(page, result.page.path, result)
            if key in self._copied and not again:
                return Copied(page, self._copied[key])
            self._first[key] = page.path
            return page

    def _stored(self, page: Page, content: str, again: bool) -> PageResult | None:
        """The stored result of a page with the same bytes, as it is now: that page may be read again soon."""
        for path, status in self._memory.same_content(content, page.number or 0, again):
            if path != page.path and state_of(status) is not PageState.ERROR:
                result = self._memory.result(path)
                if result is not None and result.content == content:
                    return result
        return None

    def _vanished(self, pages: Sequence[Page]) -> list[str]:
        there = {page.path for page in pages}
        return [path for path in self._memory.pages_of(pages[0].document.path) if path not in there]


def _resolved(path: str) -> str:
    """The path without links, as os.path.realpath gives it; quicker for many files of one folder."""
    if os.path.islink(path):
        return os.path.realpath(path)
    folder, name = os.path.split(path)
    return os.path.join(_resolved_folder(folder), name)


@lru_cache(maxsize=1024)
def _resolved_folder(folder: str) -> str:
    return os.path.realpath(folder)


class _Hashes:
    """The hashes of files' bytes, from the store or from the files."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._lock = threading.Lock()
        self._recent: OrderedDict[str, tuple[Stamp, str | None]] = OrderedDict()

    def of(self, path: str) -> str | None:
        """The SHA-256 of a file; None where it can't be read."""
        stamp = stamp_of(path)
        if stamp is None:
            return None
        content = self._memory.file_content(path, stamp.size, stamp.mtime_ns)
        if content is not None:
            return content
        with self._lock:
            recent = self._recent.get(path)
        if recent is not None and recent[0] == stamp:
            return recent[1]
        content = content_hash(path)
        self._keep(path, stamp, content)
        return content

    def _keep(self, path: str, stamp: Stamp, content: str | None) -> None:
        with self._lock:
            self._recent[path] = (stamp, content)
            while len(self._recent) > _RECENT_HASHES:
                self._recent.popitem(last=False)
        if content is not None:
            self._memory.remember_file(path, stamp.size, stamp.mtime_ns, content)
