"""`mlx-chandra status`: what a collection's CSV and store tell."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from mlx_chandra.store.status import statistics
from tests.cli.program import here, make_page, process, start
from tests.fakes import Answer, Script


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Seven pages: two cut short, one that can't be read, one a copy."""
    pages = tmp_path / "pages"
    for number in range(5):
        make_page(pages / f"{number}.png", number)
    make_page(pages / "sub" / "copy.png", 0)
    (pages / "empty.png").write_bytes(b"")
    answers = {"000001": Answer("half", "length"), "000002": Answer("half a page", "length")}
    assert ocr(tmp_path, Script(answers=answers)) == 1
    return tmp_path / "r.csv"


def ocr(folder: Path, script: Script, *options: str) -> int:
    return here("ocr", str(folder / "pages"), "-o", str(folder / "r.csv"), *options, script=script)


def said(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> str:
    capsys.readouterr()
    assert here("status", *arguments) == status
    return capsys.readouterr().out


def record(capsys: pytest.CaptureFixture[str], table: Path, *options: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(said(capsys, str(table), "--json", *options))
    return found


def test_it_counts_pages_by_state_and_names_failures_with_their_reasons(
    table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = said(capsys, str(table)).splitlines()
    assert lines[0] == f"{table}: 7 pages"
    assert [line.split() for line in lines[1:4]] == [
        ["ok", "4"], ["error:truncated", "2"], ["error:unreadable", "1"],
    ]  # fmt: skip
    failed = lines[lines.index("Failed pages (3):") + 1 :]
    assert sorted(line.split(maxsplit=1) for line in failed) == [
        ["1.png", "error:truncated"],
        ["2.png", "error:truncated"],
        ["empty.png", "error:unreadable: the file is empty"],
    ]


def test_it_says_the_speed_of_the_last_run_and_of_all(
    table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = record(capsys, table)
    assert first["last"] == first["all"]
    assert ocr(table.parent, Script(step=0.01), "--rerun", "status=truncated") == 0
    found = record(capsys, table)
    last, every = found["last"], found["all"]
    assert isinstance(last, dict)
    assert isinstance(every, dict)
    assert (last["pages"], last["failed"], last["copies"]) == (2, 0, 0)
    assert (every["pages"], every["failed"], every["copies"], every["runs"]) == (9, 3, 1, 2)
    assert (last["prompt_tokens"], every["prompt_tokens"]) == (200, 700)
    assert last["pages_per_second"] == pytest.approx(2 / last["seconds"])
    assert last["tokens_per_second"] == pytest.approx(last["generated_tokens"] / last["seconds"])
    assert last["ended"] is not None
    assert found["states"] == {"ok": 6, "error:unreadable": 1}
    text = said(capsys, str(table))
    assert f"Last run, {last['began']}: 2 pages in " in text
    assert "2 runs in all: 9 pages in " in text
    assert "1 with another file's result" in text
    assert "200 prompt and" in text


def test_it_names_the_slowest_pages_first_and_no_copies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(4):
        make_page(tmp_path / "pages" / f"{number}.png", number)
    make_page(tmp_path / "pages" / "copy.png", 3)
    answers = {f"{n:06x}": Answer(" ".join(map(str, range(30 * n + 9)))) for n in range(4)}
    assert ocr(tmp_path, Script(answers=answers, step=0.01, slots=1)) == 0
    slow = record(capsys, tmp_path / "r.csv", "--slowest", "2")["slowest"]
    assert isinstance(slow, list)
    assert [os.path.basename(page["path"]) for page in slow] in (["3.png", "2.png"], ["copy.png", "2.png"])
    assert slow[0]["seconds"] > slow[1]["seconds"] > 0
    tokens = len(answers["000003"].text) + 1
    assert (slow[0]["generated_tokens"], slow[0]["attempts"], slow[0]["status"]) == (tokens, 1, "ok")
    text = said(capsys, str(tmp_path / "r.csv"), "--slowest", "1")
    assert text.count("tokens\n") == 1
    assert "Slowest pages" not in said(capsys, str(tmp_path / "r.csv"), "--slowest", "0")


def test_all_failed_pages_are_named_when_they_are_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(25):
        make_page(tmp_path / "pages" / f"{number:02}.png", number)
    script = Script(answers={f"{number:06x}": Answer("half", "length") for number in range(25)})
    assert ocr(tmp_path, script) == 1
    table = str(tmp_path / "r.csv")
    some, all_of_them = (
        said(capsys, table, "--slowest", "0"),
        said(capsys, table, "--slowest", "0", "--failed"),
    )
    assert some.count(".png  error:truncated") == 10
    assert "... and 15 more: --failed names all" in some
    assert all_of_them.count(".png  error:truncated") == 25
    assert len(record(capsys, tmp_path / "r.csv")["failed"]) == 25  # type: ignore[arg-type]


def test_a_csv_without_a_store_is_counted_and_that_is_said(
    table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.unlink(f"{table}.journal.sqlite")
    text = said(capsys, str(table))
    assert "There is no store beside it" in text
    assert "Failed pages (3):" in text
    assert "pages/s" not in text
    found = record(capsys, table)
    assert (found["has_journal"], found["last"], found["pages"]) == (False, None, 7)
    assert not Path(f"{table}.journal.sqlite").exists()


def test_it_can_be_asked_while_a_run_goes_on_and_after_it_was_killed(tmp_path: Path) -> None:
    for number in range(60):
        make_page(tmp_path / "pages" / f"{number:02}.png", number)
    table = tmp_path / "r.csv"
    running = start(Script(step=0.2, slots=1), tmp_path, "ocr", str(tmp_path / "pages"), "-o", str(table))
    end = time.monotonic() + 20
    while (not table.exists() or table.stat().st_size < 200) and time.monotonic() < end:
        time.sleep(0.01)
    asked = process(Script(), tmp_path / "pages", "status", str(table))
    assert running.poll() is None
    running.send_signal(signal.SIGKILL)
    running.communicate(timeout=20)
    assert asked.returncode == 0, asked.stderr
    assert f"a run (process {running.pid}) is going on" in asked.stdout
    assert "This run, since 20" in asked.stdout
    after = process(Script(), tmp_path / "pages", "status", str(table))
    assert "is going on" not in after.stdout
    assert ", killed: " in after.stdout


def test_pages_that_a_run_has_read_again_count_as_they_are_now(tmp_path: Path) -> None:
    for number in range(40):
        make_page(tmp_path / "pages" / f"{number:02}.png", number)
    cut = Script(answers={f"{number:06x}": Answer("half", "length") for number in range(40)}, slots=40)
    assert ocr(tmp_path, cut) == 1
    table = tmp_path / "r.csv"
    arguments = ["ocr", str(tmp_path / "pages"), "-o", str(table), "--retry-errors"]
    running = start(Script(step=0.05, slots=1), tmp_path, *arguments)
    end = time.monotonic() + 20
    while "ok" not in (states := statistics(str(table), 0).states) and time.monotonic() < end:
        time.sleep(0.01)
    assert running.poll() is None
    running.send_signal(signal.SIGKILL)
    running.communicate(timeout=20)
    assert states["ok"] >= 1
    assert sum(states.values()) == 40
    found = statistics(str(table), 0)  # and after a kill too
    assert found.states["ok"] >= states["ok"]
    assert found.pages == 40


@pytest.mark.parametrize(
    ("content", "complaint", "status"),
    [
        (None, "There is no results file", 2),
        ("a,b\r\n", "its first line is not image_path,status,ocr_text", 1),
    ],
)
def test_what_is_no_table_is_said(
    tmp_path: Path, content: str | None, complaint: str, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / "r.csv").write_text(content)
    assert here("status", str(tmp_path / "r.csv")) == status
    assert complaint in capsys.readouterr().err


def test_a_damaged_store_is_said(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path(f"{table}.journal.sqlite").write_bytes(b"\0" * 9000)
    assert here("status", str(table)) == 1
    assert "r.csv.journal.sqlite" in capsys.readouterr().err


def test_an_empty_table_has_no_pages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "r.csv").write_bytes(b"image_path,status,ocr_text\r\n")
    assert said(capsys, str(tmp_path / "r.csv")).startswith(f"{tmp_path / 'r.csv'}: 0 pages\n")
