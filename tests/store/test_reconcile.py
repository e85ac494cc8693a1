"""Whatever happens to the CSV between two runs, what a run stored and what its user wrote are both kept."""

import csv
import os
import random
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_chandra.store.store import Store
from tests.store.stores import SETTINGS, is_whole, opened, read, rows, write

PAGES = [f"/{number}.png" for number in range(6)]
ALL = [*PAGES, "/d.pdf#page=1", "/d.pdf#page=2"]
some_pages = st.lists(st.sampled_from(ALL), unique=True, max_size=5)
word = st.text(st.sampled_from('ab,"\n\r é'), max_size=6)


@dataclass(frozen=True)
class Edits:
    """What somebody does to a CSV."""

    removed: list[str]
    edited: dict[str, str]
    added: dict[str, str]
    shuffled: int | None
    as_spreadsheet: bool

    def apply(self, path: Path) -> None:
        with open(path, encoding="utf-8", newline="") as file:
            header, *table = csv.reader(file)
        table = [[name, status, self.edited.get(name, text)] for name, status, text in table]
        table = [row for row in table if row[0] not in self.removed]
        table += [[name, "ok", text] for name, text in self.added.items()]
        if self.shuffled is not None:
            random.Random(self.shuffled).shuffle(table)
        end, quoting = ("\n", csv.QUOTE_ALL) if self.as_spreadsheet else ("\r\n", csv.QUOTE_MINIMAL)
        with open(path, "w", encoding="utf-8-sig" if self.as_spreadsheet else "utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator=end, quoting=quoting)
            writer.writerow(header)
            writer.writerows(table)


edits = st.builds(
    Edits,
    removed=some_pages,
    edited=st.dictionaries(st.sampled_from(PAGES), word, max_size=3),
    added=st.dictionaries(st.sampled_from(["/mine.png", "/d.pdf#page=9"]), word, max_size=2),
    shuffled=st.none() | st.integers(0, 9),
    as_spreadsheet=st.booleans(),
)


def killed_run(path: Path, in_both: list[str], in_store_only: list[str], dropped: list[str]) -> None:
    """A run that was killed after it stored pages, of which the CSV lacks some."""
    store = opened(path)
    store.add([read(name, f"new {name}") for name in in_both])
    store._csv.append = lambda _: None  # type: ignore[union-attr, method-assign]
    store.add([read(name, f"newest {name}") for name in in_store_only])
    store.drop(dropped)
    store._let_go()


@dataclass(frozen=True)
class Runs:
    """A run that came to its end, and perhaps one that was killed after it stored pages."""

    first: list[str]
    kill: bool
    in_both: list[str]
    in_store_only: list[str]
    dropped: list[str]

    def text(self, name: str, edits: Edits) -> str | None:
        """What a page is to say after the edits; None for none."""
        first, again = name in self.first, self.kill and name in self.in_both
        if self.kill and name in self.dropped:
            return None
        if self.kill and name in self.in_store_only:
            return f"newest {name}"
        if again and (first or name in edits.removed):  # who removed it may not have seen it
            return f"new {name}"
        if (first and name not in edits.removed) or again:
            return edits.edited.get(name, f"new {name}" if again else f"old {name}")
        return None


runs = st.builds(Runs, some_pages, st.booleans(), some_pages, some_pages, some_pages)


@settings(max_examples=50, deadline=None)
@given(runs, edits)
def test_edits_and_results_survive_each_other(runs: Runs, edits: Edits) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "r.csv"
        write(path, [read(name, f"old {name}") for name in runs.first])
        if runs.kill:
            killed_run(path, runs.in_both, runs.in_store_only, runs.dropped)
        edits.apply(path)
        found = {name: runs.text(name, edits) for name in ALL} | edits.added
        check(path, {name: text for name, text in found.items() if text is not None})


def check(path: Path, expected: dict[str, str]) -> None:
    """The same is seen and found; the next opening changes nothing more."""
    with Store.preview(path, SETTINGS) as seen:
        assert {name: seen.result(name).text for name in expected} == expected  # type: ignore[union-attr]
        assert seen.count == len(expected)
    opened(path).close()
    before = {file: (path.parent / file).read_bytes() for file in os.listdir(path.parent)}
    with open(path, encoding="utf-8-sig", newline="") as file:
        assert {name: text for name, _, text in list(csv.reader(file))[1:]} == expected
    opened(path).close()
    assert {file: (path.parent / file).read_bytes() for file in os.listdir(path.parent)} == before


@settings(max_examples=40, deadline=None)
@given(some_pages.filter(bool), some_pages, st.floats(0, 1))
def test_a_csv_cut_within_a_row_is_completed(first: list[str], killed: list[str], where: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "r.csv"
        write(path, [read(name, f'old, "{name}"\n') for name in first])
        killed_run(path, [], killed, [])
        content = path.read_bytes()
        cut = int(where * len(content))
        while content[:cut].endswith(b"\r\n") and content[:cut].count(b'"') % 2 == 0:
            cut -= 1
        path.write_bytes(content[:cut])
        opened(path).close()
        expected = {name: f'old, "{name}"\n' for name in first} | {name: f"newest {name}" for name in killed}
        assert {name: text for name, _, text in rows(path)} == expected
        is_whole(path)
