"""Documents are exported as they are put, each once, and the trouble of one is not the others'."""

import json
import os
import shutil
import threading
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import pytest
from PIL import Image

from mlx_chandra.documents.page import Page, PageResult
from mlx_chandra.errors import DiskFullError, OutputBusyError, OutputError
from mlx_chandra.export.document import Exported
from mlx_chandra.export.settings import ExportSettings, Format
from mlx_chandra.export.writer import Exporter, Exports
from tests.export.pages import document, result


def picture(page: Page) -> Image.Image:
    return Image.new("RGB", (20, 40))


class Stored:
    """What the store gives: the results of each document, and how often it was asked for them."""

    def __init__(self) -> None:
        self.texts = {f"/in/{name}.pdf": f"<p>{name}</p>" for name in "abc"}
        self.error: Exception | None = None
        self.asked: list[str] = []

    def __call__(self, path: str) -> Iterable[PageResult]:
        self.asked.append(path)
        if self.error is not None and path == "/in/b.pdf":
            raise self.error
        yield result(self.texts[path], path=path)


def settings(folder: Path, *formats: Format) -> ExportSettings:
    return ExportSettings(str(folder), frozenset(formats or [Format.MARKDOWN]))


def put_all(folder: Path, stored: Stored, *formats: Format, stop: threading.Event | None = None) -> Exporter:
    exporter = Exporter(settings(folder, *formats), stored, picture, stop)
    for name in "abc":
        exporter.put(document(f"/in/{name}.pdf", name))
    return exporter


def counts(exporter: Exporter) -> tuple[int, int, int, int]:
    found = exporter.exports
    return found.written, found.current, found.failed, exporter.dropped


def test_documents_are_written_once_and_again_when_something_has_changed(tmp_path: Path) -> None:
    stored = Stored()
    for change, expected in [
        (lambda: None, (3, 0, 0, 0)),
        (lambda: None, (0, 3, 0, 0)),
        (lambda: stored.texts.update({"/in/b.pdf": "<p>new</p>"}), (1, 2, 0, 0)),
        (lambda: (tmp_path / "c" / "c.md").unlink(), (1, 2, 0, 0)),
        (lambda: shutil.rmtree(tmp_path / "a"), (1, 2, 0, 0)),
    ]:
        change()  # type: ignore[no-untyped-call]
        exporter = put_all(tmp_path, stored)
        exporter.close()
        assert counts(exporter) == expected
    assert (tmp_path / "b" / "b.md").read_text() == "new"
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "c"]


def test_results_are_read_once_for_a_document_that_has_no_files_yet(tmp_path: Path) -> None:
    stored = Stored()
    put_all(tmp_path, stored).close()
    assert sorted(stored.asked) == sorted(stored.texts)


def test_the_error_of_one_document_is_not_the_others(tmp_path: Path) -> None:
    stored = Stored()
    stored.error = KeyError("odd")
    exporter = put_all(tmp_path, stored)
    exporter.close()
    assert counts(exporter) == (2, 0, 1, 0)
    assert "The files of /in/b.pdf can't be made: KeyError: 'odd'." in str(exporter.exports.first_error)
    assert json.loads((tmp_path / "b" / "b_metadata.json").read_text()) == {
        "source": "/in/b.pdf",
        "complete": False,
    }


def test_a_full_disk_ends_the_exporting(tmp_path: Path) -> None:
    stored = Stored()
    stored.error = DiskFullError("full")
    exporter = put_all(tmp_path, stored)
    with pytest.raises(DiskFullError):
        exporter.close()
    with pytest.raises(DiskFullError):
        exporter.check()
    assert not (tmp_path / "c").exists()
    dropped = put_all(tmp_path, stored)
    dropped.close(drop=True)  # there is other trouble already


def test_a_run_that_stops_begins_no_more_documents(tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    exporter = put_all(tmp_path, Stored(), stop=stop)
    exporter.close()
    assert counts(exporter) == (0, 0, 0, 3)


def test_names_follow_the_order_of_the_input_whoever_is_complete_first(tmp_path: Path) -> None:
    stored = Stored()
    stored.texts = {"/x/a.pdf": "x", "/y/a.pdf": "y"}
    exporter = Exporter(settings(tmp_path), stored, picture)
    both = [document(path, "a") for path in stored.texts]
    for each in both:
        exporter.reserve(each)
    for each in reversed(both):
        exporter.put(each)
    exporter.close()
    assert (tmp_path / "a" / "a.md").read_text() == "x"
    assert len(os.listdir(tmp_path)) == 2


@pytest.mark.parametrize("ready", [False, True])
def test_folders_that_are_taken_away_meanwhile_are_counted_at_the_end(tmp_path: Path, ready: bool) -> None:
    if ready:
        put_all(tmp_path, Stored()).close()
    with closing(Exports(settings(tmp_path), Stored(), picture)) as exports:
        for name in "abc":
            exports.export(document(f"/in/{name}.pdf", name))
        shutil.rmtree(tmp_path / "a")
        exports.count_missing()
    assert (exports.written, exports.failed) == (0 if ready else 2, 1)
    assert "the files of a document were taken out of" in str(exports.first_error)


def test_a_folder_that_is_taken_away_is_made_again(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with closing(Exports(settings(out), Stored(), picture)) as exports:
        shutil.rmtree(out)
        assert isinstance(exports.export(document()), Exported)
    assert os.listdir(out) == ["a"]


def test_two_runs_never_write_to_one_folder(tmp_path: Path) -> None:
    with closing(Exports(settings(tmp_path), Stored(), picture)):
        with pytest.raises(OutputBusyError, match="Another run"):
            Exports(settings(tmp_path), Stored(), picture)
        with closing(Exports(settings(tmp_path / "other"), Stored(), picture)):
            pass
    with closing(Exports(settings(tmp_path), Stored(), picture)):
        pass
    assert os.listdir(tmp_path) == ["other"]


def test_a_place_where_no_folder_can_be_is_said(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OutputError, match="can't be written"):
        Exports(settings(tmp_path / "out"), Stored(), picture)
