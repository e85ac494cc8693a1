"""What a run would do is known without doing it."""

from pathlib import Path

from PIL import Image

from mlx_chandra.documents.discover import Folder
from mlx_chandra.documents.page import PageResult, ReadSettings
from mlx_chandra.documents.pages import Reading
from mlx_chandra.documents.selection import PageSelection
from mlx_chandra.reading.forecast import DocumentForecast, forecast
from mlx_chandra.reading.resume import Resume
from mlx_chandra.store.store import Start, Store
from tests.documents.pdf_files import locked_pdf, make_pdf
from tests.documents.test_frames import frames, saved

SETTINGS = ReadSettings("test", "fake")


def look(folder: Path, reading: Reading | None = None) -> dict[str, DocumentForecast]:
    reading = reading or Reading()
    with Store.preview(folder / "r.csv", SETTINGS, Start.RESUME) as store:
        found = list(forecast(Folder.at(str(folder)), Resume(store, reading), reading))
    return {Path(document.document.path).name: document for document in found}


def test_documents_are_looked_at_as_a_run_would(tmp_path: Path) -> None:
    make_pdf(tmp_path / "a.pdf", "1 0 0", "0 1 0", "0 0 1")
    saved(tmp_path / "b.tif", frames(2, (40, 30)))
    Image.new("RGB", (60, 20)).save(tmp_path / "c.JPG")
    found = look(tmp_path, Reading(PageSelection.parse("1-2")))
    assert {name: (one.kind, one.pages, len(one.shapes)) for name, one in found.items()} == {
        "a.pdf": ("PDF", 2, 2), "b.tif": ("TIFF", 2, 2), "c.JPG": ("JPEG", 1, 1),
    }  # fmt: skip
    assert found["b.tif"].shapes == [(f"{tmp_path}/b.tif#page={number}", (30, 40)) for number in (1, 2)]
    assert found["c.JPG"].shapes == [(f"{tmp_path}/c.JPG", (20, 60))]


def test_pages_with_a_result_are_counted_and_not_looked_at_and_copies_are_named(tmp_path: Path) -> None:
    make_pdf(tmp_path / "a.pdf", "1 0 0", "0 1 0", "0 0 1")
    (tmp_path / "b.png").write_bytes(b"damaged")
    with Store(tmp_path / "r.csv", SETTINGS) as store:
        resume = Resume(store, Reading())
        for document in Folder.at(str(tmp_path)):
            pages = resume.plan(document).pages
            page = pages[1] if len(pages) > 1 else pages[0]
            store.add([PageResult(page, "ok", content=resume.content_of(page))])
    (tmp_path / "c.png").write_bytes(b"damaged")
    found = look(tmp_path)
    a, b, c = (found[name] for name in ("a.pdf", "b.png", "c.png"))
    assert (a.pages, a.stored, len(a.shapes)) == (3, 1, 2)
    assert (b.pages, b.stored, b.failures) == (1, 1, [])
    assert [(copied.page.path, copied.origin) for copied in c.copies] == [
        (f"{tmp_path}/c.png", f"{tmp_path}/b.png")
    ]


def test_what_cannot_be_read_is_said_as_the_results_will_say_it(tmp_path: Path) -> None:
    (tmp_path / "locked.pdf").write_bytes(locked_pdf("secret"))
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    Image.new("RGB", (200, 100)).save(tmp_path / "huge.png")
    found = look(tmp_path, Reading(max_pixels=1000))
    assert {name: one.failures[0][1].split(":")[1] for name, one in found.items()} == {
        "locked.pdf": "locked", "empty.png": "unreadable", "gone.png": "broken-link", "huge.png": "too-large",
    }  # fmt: skip
    why = "error:locked: the PDF is locked with a password; --password takes it"
    assert found["locked.pdf"].failures == [(str(tmp_path / "locked.pdf"), why)]
