"""Each document has a folder of its own, and keeps it; what lies in the way is left alone."""

import json
import os
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from mlx_chandra.documents.page import Page
from mlx_chandra.export.document import export_document
from mlx_chandra.export.folders import Folders, stored_digest
from mlx_chandra.export.records import digest_of
from mlx_chandra.export.settings import Choices, ExportSettings, Format
from mlx_chandra.files.paths import shown_path
from tests.export.pages import result


def picture(page: Page) -> Image.Image:
    return Image.new("RGB", (20, 40))


def write(folder: Path, source: str, stem: str, text: str = "<p>x</p>", *formats: Format) -> str:
    settings = ExportSettings(str(folder), frozenset(formats))
    return export_document(source, stem, [result(text, path=source)], settings, picture).name


def metadata(folder: Path, name: str) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / name / f"{name}_metadata.json").read_text())
    return found


def is_current(source: str, stem: str, digest: str, settings: ExportSettings) -> bool:
    name = Folders(settings.folder).name_of(source, stem)
    return stored_digest(source, name, settings.how, settings.folder) == digest


def test_documents_with_one_stem_have_folders_of_their_own_and_keep_them(tmp_path: Path) -> None:
    names = [write(tmp_path, f"/{folder}/a.pdf", "a") for folder in "xyz"]
    assert names[0] == "a"
    assert len(set(names)) == 3
    assert all(name[:2] == "a-" and len(name) == 10 for name in names[1:])
    assert [write(tmp_path, f"/{folder}/a.pdf", "a") for folder in "zyx"] == names[::-1]


def test_a_document_keeps_its_folder_when_its_stem_changes_or_the_better_name_is_free(tmp_path: Path) -> None:
    assert write(tmp_path, "/x/a.png", "a") == "a"
    assert write(tmp_path, "/x/a.png", "a.png") == "a"  # another a.jpg has come since
    second = write(tmp_path, "/y/a.png", "a")
    os.rename(tmp_path / "a", tmp_path / "elsewhere")
    assert write(tmp_path, "/y/a.png", "a") == second != "a"


@pytest.mark.parametrize("name", ["a", "A", "é"])
def test_what_is_not_ours_is_left_alone_whatever_its_letter_case(tmp_path: Path, name: str) -> None:
    foreign = tmp_path / unicodedata.normalize("NFD", name)
    foreign.mkdir()
    (foreign / "mine.txt").write_text("mine")
    (foreign / f"{foreign.name}_metadata.json").write_text("[" * 100_000)
    stem = name.casefold()
    assert write(tmp_path, f"/x/{stem}.pdf", stem).startswith(f"{stem}-")
    assert sorted(os.listdir(foreign)) == sorted(["mine.txt", f"{foreign.name}_metadata.json"])


def test_a_folder_that_a_killed_run_had_only_just_begun_is_taken(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / ".ocr-0123456789abcdef.part").write_text("{")
    assert write(tmp_path, "/x/a.pdf", "a") == "a"


def test_a_folder_of_version_0_1_is_written_again_once_under_its_name(tmp_path: Path) -> None:
    old = {"file_name": "a.pdf", "source": "/x/a.pdf", "files": ["a.md", "0f_1_img.webp"], "num_pages": 1}
    (tmp_path / "a-12345678").mkdir()
    name = write(tmp_path, "/other/a.pdf", "a")
    mine = Folders(str(tmp_path)).name_of("/x/a.pdf", "a")
    (tmp_path / mine).mkdir()
    (tmp_path / mine / f"{mine}_metadata.json").write_text(json.dumps(old))
    (tmp_path / mine / "0f_1_img.webp").write_bytes(b"old")
    settings = ExportSettings(str(tmp_path), frozenset({Format.MARKDOWN}))
    digest = digest_of([result("<p>x</p>", path="/x/a.pdf")])
    assert not is_current("/x/a.pdf", "a", digest, settings)
    assert write(tmp_path, "/x/a.pdf", "a", "<p>x</p>", Format.MARKDOWN) == mine != name
    assert is_current("/x/a.pdf", "a", digest, settings)
    assert sorted(os.listdir(tmp_path / mine)) == sorted([f"{mine}.md", f"{mine}_metadata.json"])


def test_files_are_current_only_for_these_pages_made_in_this_way_and_there(tmp_path: Path) -> None:
    write(tmp_path, "/x/a.pdf", "a", "<p>x</p>", Format.HTML, Format.TEXT)
    digest = digest_of([result("<p>x</p>", path="/x/a.pdf")])

    def current(digest: str, *formats: Format, **how: object) -> bool:
        choices = Choices(headers=bool(how.get("headers")))
        settings = ExportSettings(str(tmp_path), frozenset(formats), choices, bool(how.get("paginate")))
        return is_current("/x/a.pdf", "a", digest, settings)

    assert current(digest, Format.HTML, Format.TEXT)
    assert not current(digest, Format.HTML)
    assert not current(digest, Format.HTML, Format.TEXT, headers=True)
    assert not current(digest, Format.HTML, Format.TEXT, paginate=True)
    assert not current(digest_of([result("<p>y</p>", path="/x/a.pdf")]), Format.HTML, Format.TEXT)
    (tmp_path / "a" / "a.txt").unlink()
    assert not current(digest, Format.HTML, Format.TEXT)


@pytest.mark.parametrize("change", [{"status": "error:truncated"}, {"size": (9, 9)}, {"settings": None}])
def test_all_that_changes_the_files_changes_the_digest(change: dict[str, object]) -> None:
    same = result("x")
    assert digest_of([same]) == digest_of(iter([result("x")]))
    assert digest_of([same]) != digest_of([result("x", **change)])  # type: ignore[arg-type]
    assert digest_of([same]) != digest_of([same, same])


def test_names_in_metadata_lead_nowhere_else(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (tmp_path / "x_img.webp").write_bytes(b"not ours")
    (out / "a").mkdir(parents=True)
    names = ["../../x_img.webp", str(tmp_path / "x_img.webp"), "..", "", 7, None]
    said = {"source": "/x/a.pdf", "complete": True, "how": "pictures", "digest": "d", "files": names}
    (out / "a" / "a_metadata.json").write_text(json.dumps(said))
    assert not is_current("/x/a.pdf", "a", "d", ExportSettings(str(out), frozenset()))
    assert write(out, "/x/a.pdf", "a") == "a"
    assert (tmp_path / "x_img.webp").read_bytes() == b"not ours"


def test_a_name_of_other_bytes_is_shown_in_utf_8(tmp_path: Path) -> None:
    path = os.fsdecode(b"/x/a\xff.pdf")
    assert write(tmp_path, path, os.fsdecode(b"a\xff")) == "a\\xff"
    assert metadata(tmp_path, "a\\xff")["source"] == shown_path(path) == "/x/a\\xff.pdf"
