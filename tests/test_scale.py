"""What a large collection costs, in numbers of files looked into, so that it holds on any machine."""

import os
from collections import Counter
from pathlib import Path

import pytest

from mlx_chandra import done
from mlx_chandra.documents import content, image_files
from mlx_chandra.documents import pages as document_pages
from mlx_chandra.outputs import journal_file
from tests.cli.program import here, make_page, read
from tests.documents.pdf_files import make_pdf

OLD = 1_600_000_000  # a time in 2020, in seconds
PAGES, DONE = 600, 450


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often files were opened, hashed and looked into for their pages."""
    found: Counter[str] = Counter()
    opens, hashes, pages = image_files.open_regular, content.content_hash, document_pages.pages_of

    def open_regular(path: str) -> object:
        found["opened"] += 1
        return opens(path)

    def content_hash(path: str) -> str | None:
        found["hashed"] += 1
        return hashes(path)

    def pages_of(*arguments: object) -> object:
        found["asked for pages"] += 1
        return pages(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(image_files, "open_regular", open_regular)
    monkeypatch.setattr(content, "open_regular", open_regular)
    monkeypatch.setattr(done, "content_hash", content_hash)
    monkeypatch.setattr(document_pages, "pages_of", pages_of)
    return found


def make_pages(folder: Path) -> list[Path]:
    paths = [make_page(folder / f"{number // 100}" / f"{number:04}.png", number) for number in range(PAGES)]
    for path in paths:
        os.utime(path, (OLD, OLD))
    return paths


def test_a_resumed_run_looks_into_the_files_alone_that_are_left(
    tmp_path: Path, counts: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = make_pages(tmp_path / "pages")
    manifest = tmp_path / "list.txt"
    command = ["ocr", "--manifest", str(manifest), "-o", str(tmp_path / "r.csv"), "--no-text"]
    manifest.write_text("".join(f"{path}\n" for path in paths[:DONE]))
    assert here(*command) == 0
    assert counts["hashed"] == DONE
    assert counts["opened"] == 2 * DONE  # once to hash it, once to read it
    counts.clear()
    manifest.write_text("".join(f"{path}\n" for path in paths))
    commits: list[str] = []
    connected = journal_file._connected

    def traced(path: str, options: str) -> object:
        database = connected(path, options)
        database.set_trace_callback(lambda said: commits.append(said) if said == "commit" else None)
        return database

    monkeypatch.setattr(journal_file, "_connected", traced)
    assert here(*command, "--resume") == 0
    left = PAGES - DONE
    assert len(read(tmp_path / "r.csv")) == PAGES
    assert counts["hashed"] == left
    assert counts["opened"] == 2 * left
    assert counts["asked for pages"] <= 2 * left  # once to read them, once to count them
    assert len(commits) < left  # a group of pages at a time
    counts.clear()
    assert here(*command, "--resume") == 0
    assert counts == {}


def test_documents_that_are_done_are_opened_once_for_their_pages_and_not_hashed(
    tmp_path: Path, counts: Counter[str]
) -> None:
    for number in range(20):
        make_pdf(tmp_path / "pages" / f"{number}.pdf", f"{number / 20} 0 0", f"0 {number / 20} 1")
        os.utime(tmp_path / "pages" / f"{number}.pdf", (OLD, OLD))
    command = ["ocr", str(tmp_path / "pages"), "-o", str(tmp_path / "r.csv"), "--no-text"]
    assert here(*command) == 0
    assert counts["hashed"] == 20
    counts.clear()
    assert here(*command, "--resume") == 0
    assert counts["hashed"] == 0
    assert counts["opened"] == 20
