"""What a folder of documents remembers: whose its folders are, how pages were read, what is written.

`.mlx-chandra.jsonl` in the folder holds a line of JSON for each of

- a document's folder, before anything else is said of it: `{"document": path, "folder": name}`;
- a page that was read, before its row is in the table: how large it was, its tokens, by which model it was
  read, and with which settings (`PageFacts`);
- a document whose files are written: `{"written": path, "as": how}`.

A newer line takes the place of an older one. So a document's files are up to date exactly when the line that
says so comes after those of all its pages, and a run that was killed between a page's row and its document's
files leaves one that isn't. Lines are appended and synced like the table's rows; a torn last line is dropped.
Where somebody takes the folder away while a run writes to it, it is made again with all its lines.

Pages that are read again and documents that are written again leave lines that count no more. Where these are
the most when the folder is opened, the file is written anew without them.

A document's folder has the stem of its name. Where that is taken, by another document or by something that
isn't ours, the folder gets eight digits of its path's hash behind it. Once given, a name stays.
"""

import hashlib
import json
import os
import threading
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from mlx_chandra.errors import OutputError
from mlx_chandra.outputs.disk import disk_trouble
from mlx_chandra.outputs.layout import Size
from mlx_chandra.outputs.lines_file import LinesFile
from mlx_chandra.outputs.lock import Lock
from mlx_chandra.outputs.making import Making
from mlx_chandra.outputs.rows import shown_path

NAME = ".mlx-chandra.jsonl"
_LONGEST = 200  # bytes of a folder's name; the files in it have some more
_DIGITS = 8


@dataclass(frozen=True)
class PageFacts:
    """How a page was read.

    Attributes:
        document: Full path of the file that it is in.
        page: The page as the table names it.
        size: Of the page picture; None where none could be opened.
        finish_reason: Why the answer ended: stop, length, repetition or error; None where none was begun.
        prompt_tokens: Those of the picture and the question.
        generated_tokens: Those of the answer.
        box_scale: What the boxes in the answer are normalised to; None where nobody knows.
        making: With what it was read; the ledger of a run fills it in.
    """

    document: str
    page: str
    size: Size | None
    finish_reason: str | None
    prompt_tokens: int
    generated_tokens: int
    box_scale: int | None
    making: Making | None = None


class Ledger:
    """The memory of one folder of documents, locked for one run, which reads pages with `making`.

    Can be used by several threads.

    Raises (on opening): OutputBusyError when another run writes to the folder; OutputError when it can't be
    written, or its memory is damaged.
    """

    def __init__(self, folder: str, making: Making) -> None:
        self.folder, self._making = folder, making
        self.was_lost = False  # whether it was taken away, and written anew
        self._path = os.path.join(folder, NAME)
        self._mutex = threading.Lock()
        self._folders: dict[str, str] = {}  # all by shown path
        self._places: dict[str, int] = {}  # where a page's newest line begins
        self._written: dict[str, str] = {}
        self._lock = self._locked()
        try:
            self._file = LinesFile(self._path)
            count = self._read()
            if count > 2 * self._count():
                self._compact()
        except BaseException:
            self._lock.release()
            raise
        self._taken = {_folded(name) for name in self._folders.values()}

    def close(self) -> None:
        self._file.close()
        self._lock.release()

    def folder_of(self, document: str, stem: str) -> str:
        """The name of a document's folder; given to it for good when it is asked for first.

        Args:
            document: Full path of its file.
            stem: What the folder is called if nothing else is.
        """
        shown = shown_path(document)
        with self._mutex:
            if shown not in self._folders:
                self._be_there()
                name = self._free_name(shown, shown_path(stem))
                self._append({"document": shown, "folder": name})  # is synced with the first page's
                self._folders[shown] = name
                self._taken.add(_folded(name))
            return self._folders[shown]

    def add(self, pages: Iterable[PageFacts]) -> None:
        """Remembers how pages were read, and returns once that is on the disk."""
        with self._mutex:
            self._be_there()
            for facts in pages:
                page, document = shown_path(facts.page), shown_path(facts.document)
                self._places[page] = self._file.end
                self._written.pop(document, None)
                made = replace(facts, page=page, document=document, making=self._making)
                self._append(asdict(made))
            self._file.sync()

    def facts(self, page: str) -> PageFacts | None:
        """How the page was read; None where that isn't known."""
        with self._mutex:
            place = self._places.get(shown_path(page))
            if place is None:
                return None
            said = json.loads(self._file.line(place))
        size = Size(**said["size"]) if said["size"] else None
        return PageFacts(**said | {"size": size, "making": Making(**said["making"])})

    def set_written(self, document: str, how: str) -> None:
        """Remembers that the document's files are on the disk, made in this way."""
        with self._mutex:
            self._be_there()
            self._append({"written": shown_path(document), "as": how})
            self._file.sync()
            self._written[shown_path(document)] = how

    def is_written(self, document: str, how: str) -> bool:
        """Whether the document's files were made in this way, of all that is known of its pages."""
        with self._mutex:
            return self._written.get(shown_path(document)) == how

    def be_there(self) -> None:
        """Writes the folder's memory anew where somebody took it away.

        Raises OutputError where another one lies there now; OutputBusyError where another run holds that.
        """
        with self._mutex:
            self._be_there()

    def _be_there(self) -> None:
        with disk_trouble(self._path):
            if self._file.is_there:
                return
        if not self._lock.is_there:
            lock = self._locked()
            self._lock.release()
            self._lock = lock
        if os.path.lexists(self._path):
            raise OutputError(
                f"{self._path} was replaced while the run wrote to it.",
                "It was left as it is, and the CSV has all texts. Go on with --resume, and leave it alone.",
            )
        self._file.write_anew(line for _, line in self._file.lines())
        self.was_lost = True

    def _locked(self) -> Lock:
        with disk_trouble(self.folder):
            os.makedirs(self.folder, exist_ok=True)
        return Lock(os.path.join(self.folder, ".mlx-chandra.lock"), self.folder, "--output-dir")

    def _free_name(self, shown: str, stem: str) -> str:
        digest = hashlib.sha256(shown.encode()).hexdigest()
        whole = stem or os.path.basename(shown) or "root"
        short = whole.encode()[: _LONGEST - _DIGITS - 1].decode(errors="ignore")
        names = [whole] if len(whole.encode()) <= _LONGEST else []
        names += [f"{short}-{digest[:digits]}" for digits in (_DIGITS, 32, 64)]
        return next((name for name in names if self._is_free(name)), names[-1])

    def _is_free(self, name: str) -> bool:
        return _folded(name) not in self._taken and not os.path.lexists(os.path.join(self.folder, name))

    def _append(self, said: Mapping[str, Any]) -> None:
        self._file.append(_encoded(said))

    def _count(self) -> int:
        """Lines that count."""
        return len(self._folders) + len(self._places) + len(self._written)

    def _compact(self) -> None:
        """Leaves lines out that newer ones took the place of; where there is no room for that, none."""
        try:
            self._file.write_anew(self._lines_that_count())
        except OutputError:
            return
        for memory in (self._folders, self._places, self._written):
            memory.clear()
        self._read()

    def _lines_that_count(self) -> Iterator[bytes]:
        for document, name in self._folders.items():
            yield _encoded({"document": document, "folder": name})
        places = set(self._places.values())
        yield from (line for place, line in self._file.lines() if place in places)
        for document, how in self._written.items():  # behind all of its pages
            yield _encoded({"written": document, "as": how})

    def _read(self) -> int:
        """Takes in all whole lines, and cuts off what is behind them; returns how many there are."""
        count = end = 0
        for place, line in self._file.lines():
            if not line.endswith(b"\n"):
                break
            try:
                self._take(json.loads(line), place)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                if place + len(line) < self._file.end:
                    raise OutputError(
                        f"{self._path} is damaged at byte {place:,}, and more follows.",
                        "It was left as it is; take it away, or choose another --output-dir.",
                    ) from error
                break
            count, end = count + 1, place + len(line)
        self._file.cut(end)
        return count

    def _take(self, said: Mapping[str, Any], place: int) -> None:
        if "folder" in said:
            self._folders[said["document"]] = said["folder"]
        elif "page" in said:
            self._places[said["page"]] = place
            self._written.pop(said["document"], None)
        else:
            self._written[said["written"]] = said["as"]


def _encoded(said: Mapping[str, Any]) -> bytes:
    return json.dumps(said, ensure_ascii=False).encode() + b"\n"


def _folded(name: str) -> str:
    """The name as a file system that ignores letter case would compare it."""
    return unicodedata.normalize("NFC", name).casefold()
