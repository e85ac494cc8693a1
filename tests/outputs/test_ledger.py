"""A folder of documents remembers whose its folders are, how pages were read, and what is written."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlx_chandra.errors import DiskFullError, OutputBusyError, OutputError
from mlx_chandra.outputs import lines_file
from mlx_chandra.outputs.layout import Size
from mlx_chandra.outputs.ledger import NAME, Ledger, PageFacts
from mlx_chandra.outputs.making import Making
from tests.cli.program import environment

Opened = Callable[[], Ledger]
MAKING = Making("mlx-chandra 1", "demo", {"max_tokens": 9, "prompt": "ü"})


def facts(page: int, tokens: int = 5, document: str = "/in/a.pdf") -> PageFacts:
    return PageFacts(document, f"{document}#page={page}", Size(3, 4), "stop", 100, tokens, 1000)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[[], Ledger]]:
    ledgers: list[Ledger] = []

    def again() -> Ledger:
        if ledgers:
            ledgers[-1].close()
        ledgers.append(Ledger(str(tmp_path / "out"), MAKING))
        return ledgers[-1]

    yield again
    ledgers[-1].close()


def test_a_folder_is_called_after_its_document(opened: Opened) -> None:
    assert opened().folder_of("/in/report.pdf", "report") == "report"


def test_two_documents_with_one_stem_have_folders_of_their_own_whatever_the_letter_case(
    opened: Opened,
) -> None:
    ledger = opened()
    names = [ledger.folder_of(f"/{top}/a", stem) for top, stem in (("x", "Ab"), ("y", "ab"), ("z", "ab"))]
    assert names[0] == "Ab"
    assert len({name.casefold() for name in names}) == 3
    assert all(name.startswith("ab-") and len(name) == 11 for name in names[1:])


def test_a_name_stays_also_for_a_later_run_that_meets_the_documents_in_another_order(opened: Opened) -> None:
    ledger = opened()
    before = {path: ledger.folder_of(path, "a") for path in ("/x/a.pdf", "/y/a.pdf")}
    ledger = opened()
    assert ledger.folder_of("/z/a.pdf", "a") not in before.values()
    assert {path: ledger.folder_of(path, "a") for path in ("/y/a.pdf", "/x/a.pdf")} == before


def test_a_folder_that_is_not_ours_is_left_alone(tmp_path: Path, opened: Opened) -> None:
    (tmp_path / "out" / "a").mkdir(parents=True)
    assert opened().folder_of("/in/a.pdf", "a").startswith("a-")


@pytest.mark.parametrize("stem", ["x" * 250, "ü" * 120, "", "\udce9t\udce9"])
def test_every_stem_gives_a_name_that_the_system_takes_with_the_longest_ending(
    tmp_path: Path, opened: Opened, stem: str
) -> None:
    name = opened().folder_of("/in/\udce9.pdf", stem)
    folder = tmp_path / "out" / name
    folder.mkdir()
    (folder / f"{name}_metadata.json").write_text("{}")
    assert os.listdir(folder) == [f"{name}_metadata.json"]
    assert name.encode().decode() == name


def test_how_a_page_was_read_is_known_to_later_runs(opened: Opened) -> None:
    opened().add([facts(1), facts(2), facts(1, tokens=8)])
    ledger = opened()
    found = ledger.facts("/in/a.pdf#page=1")
    assert (found.generated_tokens, found.size, found.making) == (8, Size(3, 4), MAKING)
    assert ledger.facts("/in/a.pdf#page=3") is None


def test_files_are_up_to_date_until_a_page_is_read_again(opened: Opened) -> None:
    ledger = opened()
    ledger.add([facts(1)])
    ledger.set_written("/in/a.pdf", "html")
    ledger = opened()
    assert ledger.is_written("/in/a.pdf", "html")
    assert not ledger.is_written("/in/a.pdf", "html,json")
    assert not ledger.is_written("/in/b.pdf", "html")
    ledger.add([facts(1)])
    assert not ledger.is_written("/in/a.pdf", "html")
    assert not opened().is_written("/in/a.pdf", "html")


@pytest.mark.parametrize("torn", [b'{"written": "/in/a', b'{"written": "/in/a.pdf", "as": "html"}'])
def test_a_torn_last_line_is_dropped(tmp_path: Path, opened: Opened, torn: bytes) -> None:
    opened().add([facts(1)])
    path = tmp_path / "out" / NAME
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    ledger = opened()
    assert not ledger.is_written("/in/a.pdf", "html")
    ledger.set_written("/in/a.pdf", "json")
    assert path.read_bytes().startswith(whole)
    assert opened().is_written("/in/a.pdf", "json")


def test_a_damaged_ledger_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / NAME
    path.write_bytes(b'what?\n{"written": "/in/a.pdf", "as": "html"}\n')
    with pytest.raises(OutputError, match="damaged at byte 0"):
        Ledger(str(tmp_path), MAKING)
    assert path.read_bytes().startswith(b"what?")
    assert os.listdir(tmp_path) == [NAME]  # and the lock is gone


def test_two_runs_never_write_to_one_folder(tmp_path: Path) -> None:
    first = Ledger(str(tmp_path), MAKING)
    with pytest.raises(OutputBusyError, match="--output-dir"):
        Ledger(str(tmp_path), MAKING)
    first.close()
    Ledger(str(tmp_path), MAKING).close()


def filled(ledger: Ledger, rounds: int = 3) -> Ledger:
    """Three pages in two documents, read and written so many times; of the second one a page once more."""
    for number in range(1, rounds + 1):
        for document in ("/in/a.pdf", "/in/b.pdf"):
            ledger.folder_of(document, "stem")
        ledger.add([facts(1, number), facts(2, 10 * number), facts(3, 7, "/in/b.pdf")])
        for document in ("/in/a.pdf", "/in/b.pdf"):
            ledger.set_written(document, f"html {number}")
    ledger.add([facts(3, 8, "/in/b.pdf")])
    return ledger


def known(ledger: Ledger) -> list[object]:
    pages = [ledger.facts(page) for page in ("/in/a.pdf#page=1", "/in/a.pdf#page=2", "/in/b.pdf#page=3")]
    names = [ledger.folder_of(document, "else") for document in ("/in/a.pdf", "/in/b.pdf")]
    written = [ledger.is_written("/in/a.pdf", f"html {number}") for number in (2, 3)]
    return [pages, names, written, ledger.is_written("/in/b.pdf", "html 3")]


def test_lines_that_count_no_more_go_when_they_are_the_most(tmp_path: Path, opened: Opened) -> None:
    before = known(filled(opened()))
    assert before[2:] == [[False, True], False]
    path = tmp_path / "out" / NAME
    assert path.read_bytes().count(b"\n") == 2 + 3 * 5 + 1
    ledger = opened()
    assert path.read_bytes().count(b"\n") == 2 + 3 + 1
    assert known(ledger) == before
    ledger.add([facts(1, 99)])
    assert not ledger.is_written("/in/a.pdf", "html 3")
    ledger = opened()
    assert path.read_bytes().count(b"\n") == 2 + 3 + 1 + 1  # one that counts no more is no trouble
    assert ledger.facts("/in/a.pdf#page=1").generated_tokens == 99  # type: ignore[union-attr]


def test_a_run_that_is_killed_while_it_leaves_lines_out_leaves_them_all(
    tmp_path: Path, opened: Opened
) -> None:
    path = tmp_path / "out" / NAME
    ledger = filled(Ledger(str(path.parent), MAKING))
    before = known(ledger)
    ledger.close()
    grown = path.read_bytes()
    killed = (
        "import os\n"
        "os.replace = lambda *names: os._exit(9)\n"
        "from tests.outputs.test_ledger import MAKING, Ledger\n"
        f"Ledger({str(path.parent)!r}, MAKING)\n"
    )
    assert subprocess.run([sys.executable, "-c", killed], env=environment()).returncode == 9
    assert path.read_bytes() == grown
    assert (path.parent / f"{NAME}.part").exists()
    assert known(opened()) == before
    assert sorted(os.listdir(path.parent)) == [".mlx-chandra.jsonl", ".mlx-chandra.lock"]


def test_a_disk_too_full_to_leave_lines_out_stops_no_run(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = known(filled(opened()))

    def full(file: object, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(lines_file, "write_all", full)
    ledger = opened()
    monkeypatch.undo()
    assert known(ledger) == before
    ledger.add([facts(1, 99)])
    assert ledger.facts("/in/a.pdf#page=1").generated_tokens == 99  # type: ignore[union-attr]


def test_a_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path), MAKING)
    ledger.add([facts(1)])
    whole = (tmp_path / NAME).read_bytes()

    real = ledger._file._file

    class Full:
        def write(self, content: memoryview) -> int:
            real.write(content[:10])
            raise OSError(errno.ENOSPC, "No space left on device")

        def truncate(self, size: int) -> int:
            return real.truncate(size)

        def fileno(self) -> int:
            return real.fileno()

    ledger._file._file = Full()  # type: ignore[assignment]
    with pytest.raises(DiskFullError):
        ledger.add([facts(2)])
    assert (tmp_path / NAME).read_bytes() == whole
    ledger._file._file = real
    ledger.close()
