"""What a run does when the engine, files, results, texts or documents give trouble."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from PIL import Image

from mlx_chandra.documents.page import Document, PageResult
from mlx_chandra.errors import DiskFullError, EngineError, MlxChandraError
from mlx_chandra.export.formats import Format
from mlx_chandra.export.settings import ExportSettings
from mlx_chandra.reading.run import RunSettings
from mlx_chandra.store.store import Start, Store
from tests.documents.pdf_files import make_pdf
from tests.fakes import Answer, FakeGenerator, FakeProcessor, Inputs, Script, colour_of
from tests.reading.test_run import Source, Watcher, go, make_pages, rows


def exporting(folder: Path) -> RunSettings:
    return RunSettings(2, texts=False, export=ExportSettings(str(folder), frozenset({Format.MARKDOWN})))


def test_an_unexpected_failure_with_one_page_is_that_pages_error(tmp_path: Path) -> None:
    make_pages(tmp_path, 5)

    class Stumbling(FakeProcessor):
        def prepare(self, image: Image.Image, prompt: object, max_size: int | None = None) -> Inputs:
            if colour_of(image) == "000002":
                raise ZeroDivisionError("division by zero")
            return super().prepare(image, prompt, max_size)

        def decode(self, ids: Sequence[int]) -> str:
            text = super().decode(ids)
            if "poison" in text:
                raise KeyError("poison")
            return text

    go(tmp_path, Script(answers={"000004": Answer("poison" * 100)}), Stumbling())
    found = rows(tmp_path)
    assert found["002.png"] == ("error:internal: ZeroDivisionError: division by zero", "")
    assert found["004.png"] == ("error:internal: KeyError: 'poison'", "")
    assert [found[f"00{number}.png"][0] for number in (1, 3, 5)] == ["ok"] * 3


def test_an_error_that_concerns_every_page_ends_the_run(tmp_path: Path) -> None:
    make_pages(tmp_path, 5)

    class Misled(FakeProcessor):
        def prepare(self, *_: object) -> Inputs:
            raise MlxChandraError("The prompt holds the token that stands for the picture.")

    generator = FakeGenerator()
    with pytest.raises(MlxChandraError, match="The prompt holds"):
        go(tmp_path, generator, Misled())
    assert generator.closed


def test_a_source_that_breaks_ends_the_run_instead_of_hanging_it(tmp_path: Path) -> None:
    names = make_pages(tmp_path, 3)

    def documents() -> Iterator[Document]:
        yield Document(str(tmp_path / names[0]), "", "001")
        raise RuntimeError("the disk was pulled out")

    with pytest.raises(RuntimeError, match="pulled out"):
        go(tmp_path, source=Source(documents))


def test_results_that_cannot_be_written_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_pages(tmp_path, 60)
    calls = []

    def full(store: Store, results: Sequence[PageResult]) -> None:
        calls.append(len(results))
        raise DiskFullError("The disk is full.")

    monkeypatch.setattr(Store, "add", full)
    generator = FakeGenerator()
    watcher = Watcher()
    with pytest.raises(DiskFullError):
        go(tmp_path, generator, watcher=watcher)
    assert len(calls) == 1
    assert generator.closed
    assert watcher.results == []  # nobody hears of what isn't on the disk


def test_a_text_is_on_the_disk_before_its_row_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_pages(tmp_path, 20)
    add = Store.add

    def checking(store: Store, results: Sequence[PageResult]) -> None:
        for result in results:
            path = Path(result.page.path)
            assert path.with_name(f"{path.stem}_ocr.txt").read_text() == result.text
        add(store, results)

    monkeypatch.setattr(Store, "add", checking)
    assert go(tmp_path, settings=RunSettings(workers=2)).counts.ok == 20


def test_pages_without_text_get_no_text_file_and_pages_cut_short_do(tmp_path: Path) -> None:
    make_pages(tmp_path, 3)
    answers = {"000001": Answer(""), "000002": Answer("so far", "length"), "000003": Answer("all")}
    go(tmp_path, Script(answers=answers), settings=RunSettings())
    assert sorted(path.name for path in tmp_path.glob("*.txt")) == ["002_ocr.txt", "003_ocr.txt"]


def test_texts_that_find_no_place_are_said_once_and_the_rows_have_them(tmp_path: Path) -> None:
    make_pages(tmp_path, 30)
    for number in range(1, 21):
        (tmp_path / f"{number:03}_ocr.txt").mkdir()
    watcher = Watcher()
    summary = go(tmp_path, Script(slots=1), settings=RunSettings(), watcher=watcher)
    assert (summary.counts.ok, summary.counts.failed, summary.unwritten_texts) == (30, 0, 20)
    assert len(watcher.warnings) == 1
    assert "--text-dir" in watcher.warnings[0]
    assert all(text for _, text in rows(tmp_path).values())


def test_what_the_store_has_to_say_comes_to_the_observer_once(tmp_path: Path) -> None:
    make_pages(tmp_path, 2)
    go(tmp_path)
    Path(f"{tmp_path}/results.csv.journal.sqlite").write_bytes(b"\0" * 9000)
    make_pages(tmp_path, 3)
    watcher = Watcher()
    go(tmp_path, start=Start.RESUME, watcher=watcher)
    assert len(watcher.warnings) == 1
    assert "was damaged" in watcher.warnings[0]


def test_each_document_gets_its_files_when_its_last_page_is_stored(tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_pdf(tmp_path / f"{name}.pdf", "1 0 0", "0 1 0", f"0 0 {0.1 if name == 'a' else 0.9}")
    out = tmp_path / "out"
    settings = exporting(out)
    summary = go(tmp_path, settings=settings)
    assert (summary.counts.ok, summary.documents, summary.unwritten_documents) == (6, 2, 0)
    assert sorted(path.name for path in out.iterdir()) == ["a", "b"]
    summary = go(tmp_path, settings=settings, start=Start.RESUME)  # all is there
    assert (summary.skipped, summary.documents, summary.stopped) == (6, 0, False)


def test_documents_that_cannot_be_written_are_counted_and_said_once(tmp_path: Path) -> None:
    make_pages(tmp_path / "in", 4)
    documents = [Document(str(path), "", path.stem) for path in sorted((tmp_path / "in").iterdir())]
    out = tmp_path / "out"
    out.mkdir()
    for number in (1, 3):
        (out / f"00{number}" / f"00{number}.md").mkdir(parents=True)
        said = {"source": str(tmp_path / "in" / f"00{number}.png")}
        (out / f"00{number}" / f"00{number}_metadata.json").write_text(json.dumps(said))
    watcher = Watcher()
    settings = exporting(out)
    summary = go(tmp_path, source=Source(lambda: iter(documents)), settings=settings, watcher=watcher)
    assert (summary.counts.ok, summary.documents, summary.unwritten_documents) == (4, 2, 2)
    assert len(watcher.warnings) == 1
    assert "--resume" in watcher.warnings[0]


def test_an_engine_that_fails_once_costs_the_pages_in_it_alone(tmp_path: Path) -> None:
    make_pages(tmp_path, 50)
    generator = FakeGenerator(Script(fails_at=[60]))
    summary = go(tmp_path, generator)
    found = rows(tmp_path)
    lost = [name for name, (status, _) in found.items() if status.startswith("error:engine: ")]
    assert 0 < len(lost) <= 8
    assert (summary.counts.ok, summary.counts.error) == (50 - len(lost), len(lost))
    assert (len(found), generator.resets) == (50, 1)


def test_an_engine_that_is_gone_ends_the_run_and_loses_no_finished_page(tmp_path: Path) -> None:
    make_pages(tmp_path, 90)
    with pytest.raises(EngineError, match="device is gone"):
        go(tmp_path, Script(fails_after=60))
    before = rows(tmp_path)
    states = {status.partition(": ")[0] for status, _ in before.values()}
    assert states == {"ok", "error:engine"}
    assert len(before) < 90
    assert go(tmp_path, start=Start.RESUME).counts.ok == 90 - len(before)
    assert len(rows(tmp_path)) == 90
    assert {name: row for name, row in rows(tmp_path).items() if name in before} == before
