"""Which pages are done, and which of the others needn't be read, since the same bytes were.

The table says which pages have a row. Whether that is still what this run would write is told by the journal:
a page whose file has other bytes now, or that was read with another model or other settings, is done again. A
row that the journal knows nothing of counts by its path. So does one whose file can't be read any more, for
what was read of it is all there is; and one of a page that couldn't be read, for these are done again when
their user says so.

Files are hashed when their turn comes, and not again as long as their size and time stay as they were.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from mlx_chandra.documents.content import Stamp, content_hash, stamp_of
from mlx_chandra.documents.page import Page
from mlx_chandra.errors import PageState, state_of
from mlx_chandra.outputs.journal import Journal, JournalPage, Known
from mlx_chandra.outputs.results_csv import ResultsFile
from mlx_chandra.outputs.rows import real_path

_MOST_FRESH = 8  # files whose hashes are at hand, for the pages of a document


@dataclass(frozen=True)
class Origin:
    """The page whose row another one gets, as it is of the same bytes; `in_work`: that isn't there yet."""

    path: str
    in_work: bool


class Table(Protocol):
    """The part of the table that says which pages are done, and is told which aren't any more."""

    def __contains__(self, path: str) -> bool: ...
    def is_asked_again(self, path: str) -> bool: ...
    def do_again(self, path: str) -> None: ...
    def drop(self, paths: Iterable[str]) -> None: ...


class Judge(Protocol):
    """What is asked of pages before any of them is read. From several threads."""

    def is_current(self, page: Page) -> bool:
        """Whether the row that a page has is what this run would write."""
        ...

    def origin(self, page: Page, again: bool) -> Origin | None:
        """The page whose row this one, which is to be done now, can get: it is of the same bytes.

        It is done already, or will be in this run. None for a page that has to be read. With `again`, because
        its user wants it so, only a page of this run will do.
        """
        ...

    def vanished(self, pages: Sequence[Page]) -> list[str]:
        """The pages, as the table shows them, that a document had and has no more; `pages` are all it has."""
        ...


class Done(Judge, Protocol):
    """What a run asks of pages, and tells of those that it has done. From several threads."""

    def known(self, path: str) -> JournalPage | None:
        """All that is known of a page that is done."""
        ...

    def keep(self, pages: Sequence[JournalPage]) -> None:
        """Remembers pages whose rows are in the table. Their `content` is filled in here."""
        ...


class Memory(Protocol):
    """The part of a journal that tells whether a page is as it was, and which are of the same bytes."""

    def known(self, page: str, file: str) -> Known | None: ...
    def content(self, file: str, size: int, mtime_ns: int) -> str | None: ...
    def remember(self, file: str, size: int, mtime_ns: int, content: str) -> None: ...
    def twins(self, content: str, number: int, in_this_run: bool) -> Iterator[tuple[str, str]]: ...
    def pages_of(self, document: str) -> list[str]: ...


class ByPath:
    """A run without a journal: a row counts by its path."""

    def is_current(self, page: Page) -> bool:
        return True

    def origin(self, page: Page, again: bool) -> Origin | None:
        return None

    def known(self, path: str) -> JournalPage | None:
        return None

    def keep(self, pages: Sequence[JournalPage]) -> None:
        """Nothing is remembered."""

    def vanished(self, pages: Sequence[Page]) -> list[str]:
        return []


class ByContent:
    """A run with a journal."""

    def __init__(self, results: ResultsFile, journal: Journal) -> None:
        self._journal, self._judge = journal, ContentJudge(results, journal)

    def is_current(self, page: Page) -> bool:
        return self._judge.is_current(page)

    def origin(self, page: Page, again: bool) -> Origin | None:
        return self._judge.origin(page, again)

    def vanished(self, pages: Sequence[Page]) -> list[str]:
        return self._judge.vanished(pages)

    def known(self, path: str) -> JournalPage | None:
        return self._journal.page(path)

    def keep(self, pages: Sequence[JournalPage]) -> None:
        known = self._judge.with_contents(pages)
        self._journal.add(known)
        self._judge.release(known)


class ContentJudge:
    """Judges by the table and the journal, and writes to neither."""

    def __init__(self, table: Table, journal: Memory) -> None:
        self._table, self._journal = table, journal
        self._contents = _Contents(journal)
        self._lock = threading.Lock()
        self._in_work: dict[str, str | None] = {}  # the file's hash, by the page's path
        self._claimed: dict[tuple[str, int], str] = {}  # the page that is being read, by what it is of
        self._copying: dict[tuple[str, int], str] = {}  # the first that gets an earlier row, likewise

    def is_current(self, page: Page) -> bool:
        file = page.document.path
        known = self._journal.known(page.path, file)
        if known is None or state_of(known.status) is PageState.ERROR:
            return True
        stamp = stamp_of(file)
        if stamp is None:
            return True
        if known.hashed is not None and known.hashed[:2] == (stamp.size, stamp.mtime_ns):
            now: str | None = known.hashed[2]
        else:
            now = self._contents.of(file)
        return now is None or (known.as_now and now == known.content)

    def origin(self, page: Page, again: bool) -> Origin | None:
        content = self._contents.of(page.document.path)
        with self._lock:
            self._in_work[page.path] = content
            if content is None or page.error is not None:
                return None
            what = (content, page.number or 0)
            if what in self._claimed:
                return Origin(self._claimed[what], in_work=True)
            twin = self._twin(page, content, again)
            if twin is not None:
                self._copying.setdefault(what, page.path)
                return Origin(twin, in_work=False)
            if what in self._copying and not again:
                return Origin(self._copying[what], in_work=True)
            self._claimed[what] = page.path
            return None

    def _twin(self, page: Page, content: str, again: bool) -> str | None:
        for shown, status in self._journal.twins(content, page.number or 0, again):
            path = real_path(shown)
            if path in self._in_work or path not in self._table:
                continue  # this page itself, or one that is done again, maybe of other bytes
            if state_of(status) is not PageState.ERROR:  # which may have come from the moment
                return path
        return None

    def vanished(self, pages: Sequence[Page]) -> list[str]:
        there = {page.path for page in pages}
        had = self._journal.pages_of(pages[0].document.path)
        return [shown for shown in had if real_path(shown) not in there]

    def with_contents(self, pages: Sequence[JournalPage]) -> list[JournalPage]:
        """Pages in work, with the hashes of the files that they were read of."""
        with self._lock:
            return [replace(page, content=self._in_work.get(page.path)) for page in pages]

    def release(self, pages: Sequence[JournalPage]) -> None:
        """Says that the journal has these pages now, so that who looks for a twin finds it there."""
        with self._lock:
            for page in pages:
                self._in_work.pop(page.path, None)
                what = (page.content or "", page.number)
                for which in (self._claimed, self._copying):
                    if which.get(what) == page.path:
                        del which[what]


class _Contents:
    """The hashes of files."""

    def __init__(self, journal: Memory) -> None:
        self._journal = journal
        self._lock = threading.Lock()
        self._fresh: OrderedDict[str, tuple[Stamp, str | None]] = OrderedDict()

    def of(self, path: str) -> str | None:
        """The hash of a file; None where it can't be read. Opens it only where it isn't known."""
        stamp = stamp_of(path)
        if stamp is None:
            return None
        content = self._journal.content(path, stamp.size, stamp.mtime_ns)
        if content is not None:
            return content
        with self._lock:
            found = self._fresh.get(path)
        if found is not None and found[0] == stamp:
            return found[1]
        content = content_hash(path)
        with self._lock:
            self._fresh[path] = (stamp, content)
            while len(self._fresh) > _MOST_FRESH:
                self._fresh.popitem(last=False)
        if content is not None:
            self._journal.remember(path, stamp.size, stamp.mtime_ns, content)
        return content
