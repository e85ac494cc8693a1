"""What somebody takes away or replaces while a run writes to it loses nothing, nor do others by that."""

import os
import shutil
from pathlib import Path

import pytest

from mlx_chandra.errors import OutputBusyError, OutputError
from mlx_chandra.outputs.ledger import NAME, Ledger
from mlx_chandra.outputs.lock import Lock
from mlx_chandra.outputs.results_csv import ResultsFile, Row, Start
from tests.outputs.test_ledger import MAKING, facts
from tests.outputs.test_results_csv import read, write


def names(path: Path) -> list[str]:
    return [row[0] for row in read(path)[1:]]


def lose_row(results: ResultsFile, row: Row, said: str = "taken away or replaced") -> None:
    """Adds a row to a table that is gone, as a run does, which then ends."""
    with pytest.raises(OutputError, match=said):
        results.append([row])
    results.close()


def test_a_table_whose_folder_is_deleted_is_there_again_with_all_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "out" / "r.csv"
    results = ResultsFile(path)
    results.append([Row("/1.png", "ok", "1")])
    shutil.rmtree(tmp_path / "deep")
    lose_row(results, Row("/2.png", "ok", "2"))
    assert names(path) == ["/1.png", "/2.png"]
    assert os.listdir(path.parent) == ["r.csv"]


def test_a_table_that_an_editor_saved_anew_is_left_alone_and_the_rows_go_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    (tmp_path / "r.csv.rescued-1").write_text("of an earlier day")
    results = ResultsFile(path)
    results.append([Row("/1.png", "ok", "1")])
    (tmp_path / "edited").write_bytes(path.read_bytes() + b"/mine.png,ok,by hand\r\n")
    os.replace(tmp_path / "edited", path)
    lose_row(results, Row("/2.png", "ok", "2"), r"rescued-2\. Go on with --resume")
    assert names(path) == ["/1.png", "/mine.png"]
    assert names(tmp_path / "r.csv.rescued-2") == ["/1.png", "/2.png"]
    assert (tmp_path / "r.csv.rescued-1").read_text() == "of an earlier day"


def test_rows_done_again_and_the_old_ones_survive_together(tmp_path: Path) -> None:
    path = tmp_path / "out" / "r.csv"
    half = Row("/2.png", "error:truncated", "half")
    write(path, [Row("/1.png", "ok", "1"), half, Row("/3.png", "ok", "3")])
    results = ResultsFile(path, Start.RETRY)
    results.append([Row("/2.png", "ok", "whole")])
    shutil.rmtree(path.parent)
    lose_row(results, Row("/4.png", "ok", "4"))
    with ResultsFile(path, Start.RESUME):
        assert [row[2] for row in read(path)[1:]] == ["1", "whole", "3", "4"]
    assert os.listdir(path.parent) == ["r.csv"]


def test_a_table_that_went_after_the_last_row_is_noticed_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "out" / "r.csv"
    results = ResultsFile(path)
    results.append([Row("/1.png", "ok", "1")])
    shutil.rmtree(path.parent)
    with pytest.raises(OutputError, match="taken away"):
        results.close()
    assert names(path) == ["/1.png"]


def test_a_table_that_is_only_looked_at_or_added_to_is_no_trouble(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    with ResultsFile(path) as results:
        results.append([Row("/1.png", "ok", "1")])
        assert names(path) == ["/1.png"]
        os.utime(path)
        results.append([Row("/2.png", "ok", "2")])
    assert names(path) == ["/1.png", "/2.png"]


def test_a_lock_whose_file_is_another_runs_by_now_leaves_that_one_alone(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    first = Lock(path, "it", "--output")
    os.unlink(path)
    second = Lock(path, "it", "--output")
    first.release()
    with pytest.raises(OutputBusyError):
        Lock(path, "it", "--output")
    second.release()
    assert not os.path.exists(path)


@pytest.mark.parametrize("what", ["the folder", "the file"])
def test_a_ledger_that_is_deleted_is_there_again_with_all_its_lines(tmp_path: Path, what: str) -> None:
    out = tmp_path / "deep" / "out"
    ledger = Ledger(str(out), MAKING)
    name = ledger.folder_of("/in/a.pdf", "a")
    ledger.add([facts(1, tokens=11)])
    shutil.rmtree(tmp_path / "deep") if what == "the folder" else (out / NAME).unlink()
    assert ledger.facts("/in/a.pdf#page=1").generated_tokens == 11  # type: ignore[union-attr]
    ledger.add([facts(2, tokens=22)])
    ledger.set_written("/in/a.pdf", "html")
    assert ledger.was_lost
    with pytest.raises(OutputBusyError):
        Ledger(str(out), MAKING)
    ledger.close()
    assert os.listdir(out) == [NAME]
    again = Ledger(str(out), MAKING)
    assert again.folder_of("/in/a.pdf", "else") == name
    found = [again.facts(f"/in/a.pdf#page={page}") for page in (1, 2)]
    assert [one and one.generated_tokens for one in found] == [11, 22]
    assert again.is_written("/in/a.pdf", "html")
    again.close()


def test_a_ledger_that_was_replaced_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    ledger = Ledger(str(out), MAKING)
    ledger.add([facts(1)])
    shutil.rmtree(out)
    other = Ledger(str(out), MAKING)
    other.add([facts(7)])
    with pytest.raises(OutputBusyError, match="Another run"):
        ledger.add([facts(2)])
    other.close()
    before = (out / NAME).read_bytes()
    with pytest.raises(OutputError, match="was replaced while the run wrote to it"):
        ledger.be_there()
    ledger.close()
    assert (out / NAME).read_bytes() == before
    assert os.listdir(out) == [NAME]
