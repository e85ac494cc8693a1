"""`--log-file` says to other programs what a run does: a line of JSON for each event, whatever happens."""

import json
import os
import signal
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mlx_chandra.cli.log_file import LogFile
from tests.cli.program import here, make_page, process, read, start
from tests.cli.test_ocr_command import wait_for_rows
from tests.cli.test_progress import snapshot
from tests.fakes import Answer, Script


def events(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def arguments(folder: Path, *more: str) -> list[str]:
    log = str(folder / "log.jsonl")
    return ["ocr", "--images-dir", str(folder / "in"), "-o", str(folder / "r.csv"), "--log-file", log, *more]


def test_a_run_logs_its_settings_each_page_and_how_it_ended(tmp_path: Path) -> None:
    for number in range(3):
        make_page(tmp_path / "in" / f"{number}.png", number)
    (tmp_path / "in" / "3.png").write_bytes(b"")
    script = Script(answers={"000001": Answer("so far", "length")})
    assert here(*arguments(tmp_path, "--max-tokens", "77"), script=script) == 1
    found = events(tmp_path / "log.jsonl")
    kinds = [event["event"] for event in found]
    assert kinds == ["run_started", "model_loaded", *["page_finished"] * 4, "run_finished"]
    assert (found[0]["settings"]["max_tokens"], found[0]["results"]) == (77, str(tmp_path / "r.csv"))
    assert {"name", "backend", "system", "cores", "memory"} == set(found[0]["device"])
    rows = {row.path: row.status for row in read(tmp_path / "r.csv")}
    pages = {event["page"]: event for event in found if event["event"] == "page_finished"}
    assert {path: event["status"] for path, event in pages.items()} == rows
    assert pages[str(tmp_path / "in" / "1.png")]["generated_tokens"] == len("so far")
    assert pages[str(tmp_path / "in" / "3.png")]["attempts"] == 0
    said = {name: found[-1][name] for name in ("ok", "failed", "truncated", "error", "exit_status")}
    assert said == {"ok": 2, "failed": 2, "truncated": 1, "error": 1, "exit_status": 1}
    for event in found:
        when = datetime.fromisoformat(event["time"])
        assert when.utcoffset() == timedelta(0)


def test_documents_are_counted(tmp_path: Path) -> None:
    make_page(tmp_path / "in" / "a.png")
    assert here(*arguments(tmp_path, "--output-dir", str(tmp_path / "out"))) == 0
    (said,) = [event for event in events(tmp_path / "log.jsonl") if event["event"] == "documents"]
    assert (said["folder"], said["written"], said["unwritten"]) == (str(tmp_path / "out"), 1, 0)


def test_a_password_is_not_in_the_log(tmp_path: Path) -> None:
    make_page(tmp_path / "in" / "a.png")
    assert here(*arguments(tmp_path, "--password", "hush-hush")) == 0
    assert "hush" not in (tmp_path / "log.jsonl").read_text()
    assert events(tmp_path / "log.jsonl")[0]["settings"]["password"] == "..."


def test_later_runs_append_and_a_torn_last_line_stays_the_only_one(tmp_path: Path) -> None:
    make_page(tmp_path / "in" / "a.png")
    (tmp_path / "log.jsonl").write_text('{"time": "2026-')
    assert here(*arguments(tmp_path)) == 0
    assert here(*arguments(tmp_path, "--resume")) == 0
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert lines[0] == '{"time": "2026-'
    kinds = [json.loads(line)["event"] for line in lines[1:]]
    assert kinds.count("run_started") == kinds.count("run_finished") == 2


def test_an_error_that_ends_the_run_is_in_the_log(tmp_path: Path) -> None:
    for number in range(60):
        make_page(tmp_path / "in" / f"{number}.png", number)
    assert here(*arguments(tmp_path), script=Script(fails_after=20)) == 1
    *pages, last = events(tmp_path / "log.jsonl")[2:]
    assert {event["event"] for event in pages} == {"page_finished"}
    assert {event["page"]: event["status"] for event in pages} == {
        row.path: row.status for row in read(tmp_path / "r.csv")
    }
    assert (last["event"], last["exit_status"]) == ("error", 1)
    assert "the device is gone" in last["message"]
    assert last["remedy"]
    assert (
        here(*arguments(tmp_path)[:-2], "--log-file", str(tmp_path / "b"), "--retry-errors", "--overwrite")
        == 2
    )
    assert events(tmp_path / "b")[-1]["exit_status"] == 2


def test_every_line_is_there_when_the_run_is_killed(tmp_path: Path) -> None:
    for number in range(40):
        make_page(tmp_path / "in" / f"{number}.png", number)
    running = start(Script(step=0.05), tmp_path, *arguments(tmp_path))
    wait_for_rows(tmp_path / "r.csv", 8)
    running.send_signal(signal.SIGKILL)
    running.communicate(timeout=10)
    logged = [event for event in events(tmp_path / "log.jsonl") if event["event"] == "page_finished"]
    assert len(logged) >= 4  # those of the last group that was written may be missing, its rows came first


def test_a_log_that_cannot_be_written_ends_the_program_before_it_begins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_page(tmp_path / "in" / "a.png")
    gone = str(tmp_path / "gone" / "log.jsonl")
    assert here(*arguments(tmp_path)[:-1], gone) == 1
    assert f"The log '{gone}' can't be written: No such file" in capsys.readouterr().err
    assert here(*arguments(tmp_path)[:-1], str(tmp_path / "r.csv")) == 2
    assert "--log-file and --output name the same file" in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == ["in"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no disk that is always full")
def test_a_log_that_fails_later_is_one_warning_and_the_pages_are_read(tmp_path: Path) -> None:
    for number in range(5):
        make_page(tmp_path / "in" / f"{number}.png", number)
    done = process(Script(), tmp_path, *arguments(tmp_path)[:-1], "/dev/full")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("The log /dev/full can't be written (No space left on device)") == 1
    assert len(read(tmp_path / "r.csv")) == 5


def test_progress_is_logged_every_ten_seconds(tmp_path: Path) -> None:
    with LogFile(str(tmp_path / "log.jsonl"), print) as log:
        for second in range(25):
            log.update(snapshot(second, float(second), tokens=second * 100, failed=min(second, 1)))
        log.warn("there is no room")
    found = events(tmp_path / "log.jsonl")
    assert [(e["event"], e.get("seconds")) for e in found] == [
        ("progress", 10.0), ("progress", 20.0), ("warning", None),
    ]  # fmt: skip
    assert (found[1]["ok"], found[1]["failed"], found[1]["total"]) == (19, 1, 100)
    assert found[1]["generated_tokens"] == 2000
    assert found[1]["seconds_left"] == pytest.approx(80, rel=0.1)


@pytest.mark.skipif(sys.platform == "darwin", reason="its file system takes UTF-8 only")
def test_a_path_that_is_not_utf8_is_as_in_the_csv(tmp_path: Path) -> None:
    make_page(tmp_path / "in" / "a.png").rename(tmp_path / "in" / os.fsdecode(b"\xff.png"))
    assert here(*arguments(tmp_path)) == 0
    (page,) = [event for event in events(tmp_path / "log.jsonl") if event["event"] == "page_finished"]
    assert page["page"] == read(tmp_path / "r.csv")[0].path
    assert page["page"].endswith("\\xff.png")
