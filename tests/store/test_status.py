"""What `status` counts: from the CSV, from its store, and while a run goes on."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from mlx_chandra.errors import OutputError, UsageError
from mlx_chandra.store.status import Failed, Statistics, statistics
from tests.store.stores import HEADER, opened, read, write


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "r.csv"
    pages = [replace(read(f"/{n}.png"), seconds=float(n)) for n in range(4)]
    pages.append(replace(read("/copy.png"), seconds=9.0, copy_of="/3.png"))
    write(path, [*pages, read("/e.png", "", "error:unreadable: the file is empty")])
    return path


def test_pages_are_counted_by_state_with_failures_speeds_and_the_slowest(path: Path) -> None:
    found = statistics(str(path), 2)
    assert (found.pages, found.states) == (6, {"ok": 5, "error:unreadable": 1})
    assert found.failed == (Failed("/e.png", "error:unreadable: the file is empty"),)
    assert [(slow.path, slow.generated_tokens, slow.attempts) for slow in found.slowest] == [
        ("/3.png", 9, 2), ("/2.png", 9, 2),
    ]  # fmt: skip
    assert found.last == found.all
    assert found.last is not None
    assert (found.last.pages, found.last.copies, found.last.failed, found.last.models) == (6, 1, 1, ("demo",))
    assert found.last.pages_per_second == 5 / found.last.seconds
    assert found.last.ended is not None


def test_a_run_that_goes_on_is_seen_with_what_it_has_read_again(path: Path) -> None:
    with opened(path) as store:
        store.add([read("/e.png"), read("/new.png")])
        found = statistics(str(path), 0)
        assert (found.running, found.states, found.slowest) == (os.getpid(), {"ok": 7}, ())
        assert found.last is not None
        assert found.last.ended is None
        assert found.all is not None
        assert found.all.runs == 2
    assert statistics(str(path), 0).running is None


def test_a_csv_without_a_store_is_counted_and_one_without_pages_too(path: Path) -> None:
    os.unlink(f"{path}.journal.sqlite")
    found = statistics(str(path), 5)
    assert (found.has_journal, found.last, found.pages, len(found.failed)) == (False, None, 6, 1)
    assert os.listdir(path.parent) == ["r.csv"]
    path.write_bytes(HEADER)
    assert statistics(str(path), 5) == Statistics(str(path), {}, (), None, False)


def test_what_cannot_be_counted_is_said(path: Path) -> None:
    with pytest.raises(UsageError, match="There is no results file"):
        statistics(str(path.parent / "none.csv"), 5)
    Path(f"{path}.journal.sqlite").write_bytes(b"\0" * 9000)
    with pytest.raises(OutputError, match=r"r\.csv\.journal\.sqlite"):
        statistics(str(path), 5)
    os.unlink(f"{path}.journal.sqlite")
    path.write_text("a,b\r\n")
    with pytest.raises(OutputError, match="its first line is not"):
        statistics(str(path), 5)
