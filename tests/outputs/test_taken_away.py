"""A table that somebody takes away or replaces while a run writes to it loses no row."""

import os
import shutil
from pathlib import Path

import pytest

from mlx_chandra.errors import OutputError
from mlx_chandra.outputs.results_csv import ResultsFile, Row, Start
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
