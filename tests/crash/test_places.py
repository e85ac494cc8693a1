"""Places that can't be written, or go away while a run writes to them, through the real program."""

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.program import make_page, process, read, start
from tests.crash.test_disk_full import small_disk
from tests.fakes import Answer, Script

PAGES = 40


def make_pages(folder: Path) -> None:
    for number in range(PAGES):
        make_page(folder / f"{number:02}.png", number)


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """The folder as one that nobody may write to; the system's own user needs a disk of its own for that."""
    if os.geteuid() != 0:
        folder.chmod(0o555)
        try:
            yield
        finally:
            folder.chmod(0o755)
        return
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=True)


@contextlib.contextmanager
def folder_that_can_be_read_only(folder: Path) -> Iterator[None]:
    if os.geteuid() == 0:
        with small_disk(folder, "2m"):
            yield
    else:
        folder.mkdir()
        yield


def wait_for_rows(table: Path, count: int) -> None:
    end = time.monotonic() + 20
    while not table.exists() or table.read_bytes().count(b",ok,") < count:
        assert time.monotonic() < end, "the run does not get on"
        time.sleep(0.01)


@pytest.mark.parametrize("texts_there_too", [False, True])
def test_an_output_folder_that_is_deleted_in_a_run_comes_back_with_all_rows(
    tmp_path: Path, texts_there_too: bool
) -> None:
    pages, out = tmp_path / "pages", tmp_path / "out"
    make_pages(pages)
    table = out / "r.csv"
    arguments = ["ocr", str(pages), "-o", str(table), "--resume"]
    arguments += ["--text-dir", str(out / "texts")] if texts_there_too else ["--no-text"]
    running = start(Script(step=0.02), tmp_path, *arguments)
    wait_for_rows(table, 8)
    before = {row.path: row.text for row in read(table)}
    shutil.rmtree(out, ignore_errors=True)  # a text may come in between
    _, complained = running.communicate(timeout=20)
    assert running.returncode == 0, complained
    assert f"{table}.journal.sqlite was taken away during the run, and was written anew" in complained
    assert "Traceback" not in complained
    after = {row.path: row for row in read(table)}
    assert len(after) == PAGES
    assert all(after[path].text == text for path, text in before.items())
    assert all(row.text.endswith("</p>") for row in after.values())
    done = process(Script(fails_after=0), tmp_path, *arguments)  # nothing is read
    assert (done.returncode, done.stderr) == (0, "")


def delete_the_folder(out: Path) -> None:
    shutil.rmtree(out, ignore_errors=True)  # a file may come in between


def delete_what_is_seen(out: Path) -> None:
    """As `rm -rf out/*`, which leaves the hidden files."""
    for path in out.glob("[!.]*"):
        shutil.rmtree(path, ignore_errors=True)


@pytest.mark.parametrize("delete", [delete_the_folder, delete_what_is_seen])
def test_documents_that_are_deleted_in_a_run_are_said_and_there_again_after_the_next(
    tmp_path: Path, delete: Callable[[Path], None]
) -> None:
    pages, out, table = tmp_path / "pages", tmp_path / "out", tmp_path / "r.csv"
    make_pages(pages)
    arguments = ["ocr", str(pages), "-o", str(table), "--no-text", "--output-dir", str(out), "--resume"]
    running = start(Script(step=0.02), tmp_path, *arguments)
    wait_for_documents(out, 8)
    delete(out)
    said, complained = running.communicate(timeout=20)
    assert running.returncode == 1
    assert [row.status for row in read(table)] == ["ok"] * PAGES
    gone = PAGES - len(documents_in(out))
    assert gone >= 8
    assert f"{PAGES} pages ok, 0 failed" in said
    assert f"The files of {PAGES - gone} documents were written. Those of {gone} documents" in said
    assert complained.count("Warning: ") == 1
    assert str(out) in complained  # documents that were taken out of it, or one that was being written
    assert "Run again with --resume" in complained
    done = process(Script(fails_after=0), tmp_path, *arguments)  # nothing is read for it
    assert (done.returncode, done.stderr) == (0, "")
    assert f"The files of {gone} documents were written." in done.stdout
    assert len(documents_in(out)) == PAGES
    assert all(found["total_token_count"] for found in documents_in(out))  # what the store knows isn't lost
    assert not list(out.glob(".*.lock")) + list(out.glob(".*.part"))


def test_documents_that_are_deleted_together_with_the_csv_come_with_the_next_run(tmp_path: Path) -> None:
    pages, out = tmp_path / "pages", tmp_path / "out"
    make_pages(pages)
    arguments = [
        "ocr",
        str(pages),
        "-o",
        str(out / "r.csv"),
        "--no-text",
        "--output-dir",
        str(out),
        "--resume",
    ]
    running = start(Script(step=0.02), tmp_path, *arguments)
    wait_for_documents(out, 8)
    out.rename(tmp_path / "trash")
    _, complained = running.communicate(timeout=20)
    assert running.returncode == 1
    assert "r.csv.journal.sqlite was taken away" in complained
    assert "Run again with --resume" in complained
    assert "Traceback" not in complained
    assert len(read(out / "r.csv")) == PAGES
    done = process(Script(fails_after=0), tmp_path, *arguments)  # nothing is read for it
    assert (done.returncode, done.stderr) == (0, "")
    assert len(documents_in(out)) == PAGES
    assert all(found["total_token_count"] for found in documents_in(out))


def documents_in(out: Path) -> list[dict[str, object]]:
    return [json.loads(path.read_text()) for path in out.glob("*/*_metadata.json")]


def wait_for_documents(out: Path, count: int) -> None:
    end = time.monotonic() + 20
    while len(list(out.glob("*/*_metadata.json"))) < count:
        assert time.monotonic() < end, "the run does not get on"
        time.sleep(0.01)


def test_a_read_only_folder_of_pages_gives_all_rows_and_one_warning(tmp_path: Path) -> None:
    pages, table = tmp_path / "pages", tmp_path / "r.csv"
    with folder_that_can_be_read_only(pages):
        make_pages(pages)
        with read_only(pages):
            done = process(Script(), tmp_path, "ocr", str(pages), "-o", str(table))
            assert done.returncode == 0
            assert done.stderr.count("Warning: ") == 1
            assert "--text-dir" in done.stderr
            assert f"{PAGES} text files could not be written" in done.stdout
            assert len(read(table)) == PAGES
            assert all(row.text.endswith("</p>") for row in read(table))
            with_texts = ["--text-dir", str(tmp_path / "texts"), "--overwrite"]
            again = process(Script(), tmp_path, "ocr", str(pages), "-o", str(table), *with_texts)
            assert (again.returncode, again.stderr) == (0, "")
            assert len(list((tmp_path / "texts").iterdir())) == PAGES


def test_a_csv_that_may_not_be_written_is_said_before_a_model_is_loaded(tmp_path: Path) -> None:
    pages = tmp_path / "pages"
    with folder_that_can_be_read_only(pages):
        make_pages(pages)
        with read_only(pages):
            slow = Script(loading=30.0)
            began = time.monotonic()
            done = process(slow, tmp_path, "ocr", str(pages), "-o", str(pages / "r.csv"))
            assert time.monotonic() - began < 15
    assert done.returncode == 1
    assert "r.csv can't be written: " in done.stderr
    assert "Check the folder and its rights." in done.stderr
    assert "Traceback" not in done.stderr


def test_a_disk_that_is_too_full_to_put_retried_rows_in_their_places_keeps_them_for_later(
    tmp_path: Path,
) -> None:
    pages, disk = tmp_path / "pages", tmp_path / "disk"
    for number in range(48):
        make_page(pages / f"{number:02}.png", number)
    text = "".join(f"many words {line} on this page, " for line in range(100))
    answers = {f"{number:06x}": Answer(text, "length" if number < 2 else "stop") for number in range(48)}
    with small_disk(disk, "2m"):
        arguments = ["ocr", str(pages), "-o", str(disk / "r.csv"), "--no-text"]
        assert process(Script(answers=answers, slots=8), tmp_path, *arguments).returncode == 1
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_bsize
        (disk / "filler").write_bytes(b"0" * (free - 120 * 1024))  # for the store, not for a second CSV
        done = process(Script(), tmp_path, *arguments, "--retry-errors")
        assert done.returncode == 1
        assert "is full" in done.stderr
        assert "Traceback" not in done.stderr
        cut = ["error:truncated"] * 2
        assert [row.status for row in read(disk / "r.csv")] == [*cut, *["ok"] * 46]
        (disk / "filler").unlink()
        again = process(Script(fails_after=0), tmp_path, *arguments, "--resume")  # nothing is read for it
        assert again.returncode == 0, again.stderr
        assert [row.status for row in read(disk / "r.csv")] == ["ok"] * 48
        assert sorted(os.listdir(disk)) == ["r.csv", "r.csv.journal.sqlite"]
