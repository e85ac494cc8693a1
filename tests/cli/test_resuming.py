"""What --resume, --retry-errors and --rerun read again, and what only gets a row."""

import hashlib
import json
import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from mlx_chandra.cli.main import main
from mlx_chandra.cli.model import ModelOptions
from mlx_chandra.engine.sampler import Sampling
from mlx_chandra.engine.service import Service
from tests.cli.program import make_page, read, statuses
from tests.documents.pdf_files import make_pdf
from tests.fakes import Answer, FakeGenerator, FakeProcessor, Inputs, Script, fake_service

REDS = ["0.2 0 0", "0.4 0 0", "0.6 0 0"]


class Runs:
    """Runs the program on a folder, and remembers what its engines were given."""

    def __init__(self, folder: Path) -> None:
        self.pages, self.table = folder / "pages", folder / "r.csv"
        self.engines: list[_Counting] = []

    def __call__(self, *arguments: str, script: Script | None = None) -> int:
        """Return the number of pages that were read, retries included; fails where it ended otherwise."""
        self.engines.clear()
        assert self.status(*arguments, script=script) in (0, 1)
        return sum(engine.inserted for engine in self.engines)

    def status(self, *arguments: str, script: Script | None = None) -> int:
        def opened(options: ModelOptions) -> Service:
            self.engines.append(_Counting(script))
            return Service(self.engines[-1], FakeProcessor())  # type: ignore[arg-type]

        return main(["ocr", str(self.pages), "-o", str(self.table), *arguments], service_factory=opened)

    def texts(self) -> dict[str, str]:
        return {os.path.relpath(row.path, self.pages): row.text for row in read(self.table)}

    def statuses(self) -> dict[str, str]:
        return statuses(self.table, self.pages)

    def stored(self, query: str) -> list[tuple[object, ...]]:
        with sqlite3.connect(f"{self.table}.journal.sqlite") as database:
            return database.execute(query).fetchall()


class _Counting(FakeGenerator):
    inserted = 0

    def _insert(self, inputs: Inputs, sampling: Sampling) -> int:
        self.inserted += 1
        return super()._insert(inputs, sampling)


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    (tmp_path / "pages").mkdir()
    return Runs(tmp_path)


def test_what_was_read_before_is_not_read_again(runs: Runs) -> None:
    for number in range(5):
        make_page(runs.pages / f"{number}.png", number)
    assert runs() == 5
    assert runs("--resume") == 0
    assert runs.engines == []


def test_a_file_that_was_moved_gets_a_row_and_a_text_without_being_read(runs: Runs) -> None:
    make_page(runs.pages / "a.png", 1)
    assert runs() == 1
    (runs.pages / "a.png").rename(runs.pages / "b.png")
    assert runs("--resume") == 0
    assert runs.engines == []  # no model is loaded for that
    found = runs.texts()
    assert found["a.png"] == found["b.png"] != ""
    assert (runs.pages / "b_ocr.txt").read_text() == found["b.png"]
    assert runs("--resume") == 0
    assert len(runs.texts()) == 2


def test_a_file_that_was_moved_keeps_its_text_where_another_took_its_place(runs: Runs) -> None:
    for name, number in (("b.png", 1), ("c.png", 2)):
        make_page(runs.pages / name, number)
    assert runs() == 2
    before = runs.texts()
    for old, new, number in (("b.png", "a.png", 3), ("c.png", "d.png", 4)):
        (runs.pages / old).rename(runs.pages / new)
        make_page(runs.pages / old, number)
    assert runs("--resume") in (2, 3)  # d is read where c's new row is there before its turn
    after = runs.texts()
    assert after["a.png"] == before["b.png"]
    assert len(set(after.values())) == 4
    assert (runs.pages / "a_ocr.txt").read_text() == before["b.png"]
    assert runs("--resume") == 0


def test_files_that_were_renumbered_get_rows_of_their_content_without_being_read(runs: Runs) -> None:
    for number in range(5):
        make_page(runs.pages / f"{number}.png", number)
    assert runs() == 5
    before = runs.texts()
    for number in range(1, 5):
        (runs.pages / f"{number}.png").rename(runs.pages / f"{number - 1}.png")
    assert runs("--resume") == 0
    assert runs.engines == []
    after = runs.texts()
    assert [after[f"{n}.png"] for n in range(5)] == [before[f"{n}.png"] for n in (1, 2, 3, 4, 4)]
    assert (runs.pages / "0_ocr.txt").read_text() == before["1.png"]


def test_copies_of_a_page_whose_place_another_one_took_get_its_text(runs: Runs) -> None:
    make_page(runs.pages / "b.png", 1)
    assert runs() == 1
    before = runs.texts()["b.png"]
    for name in ("a.png", "c.png"):
        shutil.copy(runs.pages / "b.png", runs.pages / name)
    make_page(runs.pages / "b.png", 2)
    assert runs("--resume") == 1
    found = runs.texts()
    assert found["a.png"] == found["c.png"] == before != found["b.png"]


def test_of_files_with_the_same_bytes_one_is_read(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    make_page(runs.pages / "0.png", 1)
    make_page(runs.pages / "other.png", 2)
    for number in range(1, 30):
        shutil.copy(runs.pages / "0.png", runs.pages / f"{number}.png")
    assert runs() == 2
    assert "31 pages ok" in (said := capsys.readouterr().out)
    assert "29 pages have the result of another file with the same content." in said
    found = runs.texts()
    assert len(found) == 31
    assert len(set(found.values())) == 2
    for name, text in found.items():
        assert (runs.pages / name.replace(".png", "_ocr.txt")).read_text() == text
    assert runs.stored("select count(*) from pages where copy_of is not null") == [(29,)]
    assert runs("--resume") == 0


def test_copies_of_a_page_that_was_cut_short_are_so_too(runs: Runs) -> None:
    for name in "abc":
        make_page(runs.pages / f"{name}.png", 1)
    script = Script(answers={"000001": Answer("so far", "length")})
    assert runs(script=script) == 1
    assert runs.statuses() == dict.fromkeys(["a.png", "b.png", "c.png"], "error:truncated")
    assert set(runs.texts().values()) == {"so far"}


def test_a_copy_of_a_page_that_failed_for_another_reason_is_read_in_the_next_run(runs: Runs) -> None:
    make_page(runs.pages / "a.png", 1)
    assert runs(script=Script(answers={"000001": Answer("x", "error")})) == 1
    shutil.copy(runs.pages / "a.png", runs.pages / "b.png")
    assert runs("--resume") == 1
    assert runs.statuses() == {"a.png": "error:overflow: the model's numbers overflowed.", "b.png": "ok"}


def test_a_file_with_new_content_is_read_again_and_has_one_row(runs: Runs) -> None:
    for name, number in (("a.png", 1), ("b.png", 2)):
        make_page(runs.pages / name, number)
    assert runs() == 2
    before = runs.texts()
    make_page(runs.pages / "a.png", 3)
    assert runs("--resume") == 1
    after = runs.texts()
    assert after["a.png"] != before["a.png"]
    assert after["b.png"] == before["b.png"]
    assert (runs.pages / "a_ocr.txt").read_text() == after["a.png"]
    assert runs("--resume") == 0


def test_a_file_that_was_only_touched_is_not_read_again(runs: Runs) -> None:
    make_page(runs.pages / "a.png", 1)
    assert runs() == 1
    os.utime(runs.pages / "a.png", (1e9, 1e9))
    assert runs("--resume") == 0


@pytest.mark.parametrize(
    "change",
    ["--max-tokens 77", "--max-size 900", "--prompt Read!", "--prompt-type ocr", "--dtype float16",
     "--retries 1", "--model demo"],
)  # fmt: skip
def test_with_other_settings_pages_are_read_again_and_in_the_next_run_not(runs: Runs, change: str) -> None:
    for number in range(3):
        make_page(runs.pages / f"{number}.png", number)
    assert runs() == 3
    assert runs("--resume", *change.split()) == 3
    assert len(runs.texts()) == 3
    assert runs("--resume", *change.split()) == 0
    assert runs("--resume") == 3


def test_what_does_not_change_an_answer_does_not_count(runs: Runs, tmp_path: Path) -> None:
    make_page(runs.pages / "a.png", 1)
    assert runs() == 1
    other = ["--batch-size", "3", "--workers", "2", "--verbose", "--no-text", "--max-pixels", "100000"]
    assert runs("--resume", *other, "--output-dir", str(tmp_path / "out")) == 0


def make_checkpoint(folder: Path, weights: bytes) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(weights)
    return folder


def test_a_model_is_known_by_its_weights_wherever_they_lie(runs: Runs, tmp_path: Path) -> None:
    make_page(runs.pages / "a.png", 1)
    model = make_checkpoint(tmp_path / "model", b"1" * 100_000)
    assert runs("--model", str(model)) == 1
    model = model.rename(tmp_path / "moved")
    (model / "README.md").write_text("a new model card")
    assert runs("--resume", "--model", str(model)) == 0
    trained = make_checkpoint(tmp_path / "model", b"1" * 50_000 + b"2" * 50_000)
    assert runs("--resume", "--model", str(trained)) == 1


def test_rows_of_an_older_run_without_a_store_count_by_their_paths(runs: Runs) -> None:
    make_page(runs.pages / "a.png", 1)
    assert runs() == 1
    os.unlink(f"{runs.table}.journal.sqlite")
    make_page(runs.pages / "b.png", 2)
    before = runs.texts()
    assert runs("--resume", "--max-tokens", "77") == 1
    assert runs.texts()["a.png"] == before["a.png"]
    hashed = runs.stored("select path from pages where content is not null")
    assert hashed == [(str(runs.pages / "b.png"),)]


def test_a_store_that_is_older_than_the_csv_loses_nothing(runs: Runs) -> None:
    for number in range(3):
        make_page(runs.pages / f"{number}.png", number)
    assert runs() == 3
    store = Path(f"{runs.table}.journal.sqlite")
    older = store.read_bytes()
    make_page(runs.pages / "3.png", 3)
    assert runs("--resume") == 1
    before = runs.texts()
    store.write_bytes(older)
    assert runs("--resume") == 0
    assert runs.texts() == before


def test_a_stored_page_whose_row_was_taken_out_of_the_csv_is_read_again(runs: Runs) -> None:
    for number in range(3):
        make_page(runs.pages / f"{number}.png", number)
    assert runs() == 3
    whole = runs.table.read_bytes()
    runs.table.write_bytes(whole[: whole.rstrip().rfind(b'"\r\n') + 3])  # without its last row
    assert runs("--resume") == 1
    assert len(runs.texts()) == 3


def test_a_damaged_store_is_said_and_set_aside(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    make_page(runs.pages / "a.png", 1)
    assert runs() == 1
    Path(f"{runs.table}.journal.sqlite").write_bytes(b"\0" * 9000)
    make_page(runs.pages / "b.png", 2)
    capsys.readouterr()
    assert runs("--resume") == 1
    assert "r.csv.journal.sqlite was damaged. It was moved to" in capsys.readouterr().err
    assert Path(f"{runs.table}.journal.sqlite.damaged-1").read_bytes() == b"\0" * 9000
    assert set(runs.statuses().values()) == {"ok"}


def test_a_store_of_a_newer_version_ends_the_run_before_it_begins(
    runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    make_page(runs.pages / "a.png", 1)
    assert runs() == 1
    before = runs.table.read_bytes()
    runs.stored("pragma user_version = 99")
    capsys.readouterr()
    assert runs.status("--resume") == 1
    said = capsys.readouterr().err
    assert "is of a newer mlx-chandra" in said
    assert "move the store away" in said
    assert runs.table.read_bytes() == before
    assert runs.engines[1:] == []


def test_overwriting_forgets_what_was_read(runs: Runs) -> None:
    make_page(runs.pages / "a.png", 1)
    assert runs() == 1
    assert runs("--overwrite") == 1
    assert runs.stored("select count(*) from runs") == [(1,)]


def test_a_row_whose_file_is_gone_stays_whatever_changed(runs: Runs, tmp_path: Path) -> None:
    for name in "ab":
        make_page(runs.pages / f"{name}.png", ord(name))
    manifest = tmp_path / "list.txt"
    manifest.write_text("pages/a.png\npages/b.png\n")
    command = ["ocr", "--manifest", str(manifest), "-o", str(runs.table)]
    assert main(command, service_factory=lambda options: fake_service()) == 0
    before = runs.texts()
    (runs.pages / "a.png").unlink()
    again = [*command, "--resume", "--max-tokens", "77"]
    assert main(again, service_factory=lambda options: fake_service()) == 0
    assert runs.statuses() == {"a.png": "ok", "b.png": "ok"}
    assert runs.texts()["a.png"] == before["a.png"]


def test_pages_that_could_not_be_read_wait_to_be_asked_for(runs: Runs) -> None:
    (runs.pages / "a.png").write_bytes(b"")
    make_page(runs.pages / "b.png", 2)
    assert runs() == 1
    make_page(runs.pages / "a.png", 1)
    assert runs("--resume") == 0
    assert runs("--rerun", "status=unreadable") == 1
    assert set(runs.statuses().values()) == {"ok"}


def cut(*numbers: int) -> Script:
    """A reader that doesn't come to the end of these pages."""
    ends = {1: "length", 2: "repetition", 3: "error"}
    return Script(answers={f"{n:06x}": Answer(f"half {n}", ends[n]) for n in numbers})


@pytest.mark.parametrize(
    ("which", "again"),
    [
        (["status=truncated"], "1"),
        (["status=truncated,repetition"], "12"),
        (["status=error:truncated", "status=overflow"], "13"),
        (["status=error"], "123"),
        (["status=ok"], "04"),
        (["path=*4.png"], "4"),
        (["path=pages/[24].png"], "24"),
        (["status=overflow", "path=0.png"], "03"),
    ],
)
def test_rerun_reads_the_pages_again_that_it_names_and_no_other(
    runs: Runs, which: list[str], again: str
) -> None:
    for number in range(5):
        make_page(runs.pages / f"{number}.png", number)
    assert runs("--retries", "0", script=cut(1, 2, 3)) == 5
    before = runs.texts()
    options = [word for one in which for word in ("--rerun", one)]
    new = Script(answers={f"{n:06x}": Answer("new") for n in range(5)})
    assert runs(*options, "--retries", "0", script=new) == len(again)
    after = runs.texts()
    assert {name for name in after if after[name] == "new"} == {f"{n}.png" for n in again}
    assert all(after[name] == before[name] for name in after if after[name] != "new")


@pytest.mark.parametrize("option", [["--rerun", "status=truncated"], ["--retry-errors"]])
def test_what_is_not_named_stays_although_settings_changed(runs: Runs, option: list[str]) -> None:
    for number in range(4):
        make_page(runs.pages / f"{number}.png", number)
    assert runs(script=cut(1)) == 4
    make_page(runs.pages / "3.png", 33)  # but new bytes are another page
    make_page(runs.pages / "4.png", 2)  # and a new file is read as this run reads, not as its copy was
    assert runs(*option, "--max-tokens", "77") == 3
    settings = "select id from settings where settings like '%77%'"
    made = runs.stored(f"select count(*) from pages where settings in ({settings})")
    assert made == [(3,)]


def test_it_is_said_before_pages_are_read_again_for_other_settings(
    runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        make_page(runs.pages / f"{number}.png", number)
    assert runs() == 3
    assert runs("--resume") == 0
    assert "settings" not in capsys.readouterr().err
    assert runs("--resume", "--max-tokens", "77", "--prompt", "Read!", "--model", "demo") == 3
    complained = capsys.readouterr().err
    assert "3 pages were read with another model or other settings" in complained
    assert "model mlx-community/chandra-bf16, now demo; max_tokens 8192, now 77; prompt unset" in complained


def test_pages_that_are_named_are_read_again_although_others_have_their_bytes(runs: Runs) -> None:
    make_page(runs.pages / "a.png", 1)
    for name in "bcd":
        shutil.copy(runs.pages / "a.png", runs.pages / f"{name}.png")
    assert runs() == 1
    new = Script(answers={"000001": Answer("new")})
    assert runs("--rerun", "path=[bc].png", script=new) == 1  # c gets b's row
    found = runs.texts()
    assert (found["b.png"], found["c.png"]) == ("new", "new")
    assert found["a.png"] == found["d.png"] != "new"


@pytest.mark.parametrize(
    ("which", "said"),
    [
        ("status=truncatd", "'truncatd' is no status"),
        ("status=", "'' is no status"),
        ("truncated", "names no pages"),
        ("path=", "names no pages"),
        ("size=5", "names no pages"),
    ],
)
def test_a_rerun_that_makes_no_sense_is_wrong_usage(
    runs: Runs, which: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make_page(runs.pages / "a.png", 1)
    assert runs.status("--rerun", which) == 2
    complained = capsys.readouterr().err
    assert said in complained
    if "status" in said:
        assert "truncated, repetition, error, or broken-link" in complained
    assert not runs.table.exists()


def test_overwriting_and_reading_again_do_not_go_together(
    runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    make_page(runs.pages / "a.png", 1)
    for option in (["--rerun", "status=ok"], ["--retry-errors"]):
        assert runs.status("--overwrite", *option) == 2
        assert option[0] in capsys.readouterr().err


def test_every_kind_of_error_can_be_named(runs: Runs) -> None:
    from mlx_chandra.cli.resuming import KINDS
    from tests.test_house import ROOT

    documented = (ROOT / "docs" / "command-line.md").read_text().split("### The status")[1]
    kinds = {line.split("error:")[1].split(":")[0] for line in documented.splitlines() if ": ...`" in line}
    assert kinds
    assert kinds <= set(KINDS)


def test_pages_of_a_copied_document_get_their_rows_and_files_too(runs: Runs, tmp_path: Path) -> None:
    make_pdf(runs.pages / "a.pdf", *REDS)
    shutil.copy(runs.pages / "a.pdf", runs.pages / "b.pdf")
    out = tmp_path / "out"
    options = ["--output-dir", str(out), "--format", "json,markdown"]
    assert runs(*options) == 3
    assert len(runs.texts()) == 6
    said = [json.loads((out / name / f"{name}.json").read_text())["pages"] for name in "ab"]
    for first, second in zip(*said, strict=True):
        assert {**first, "path": ""} == {**second, "path": ""}
        assert first["generated_tokens"] > 0
    (runs.pages / "b.pdf").rename(runs.pages / "c.pdf")
    assert runs("--resume", *options) == 0
    assert (out / "c" / "c.md").read_text() == (out / "a" / "a.md").read_text()


def test_pages_that_a_changed_document_has_no_more_leave_the_table(runs: Runs) -> None:
    make_pdf(runs.pages / "a.pdf", *REDS)
    make_pdf(runs.pages / "b.pdf", "0 0.2 0", "0 0.4 0")
    assert runs() == 5
    make_pdf(runs.pages / "a.pdf", *REDS[1:])
    assert runs("--resume") == 2
    assert sorted(runs.texts()) == ["a.pdf#page=1", "a.pdf#page=2", "b.pdf#page=1", "b.pdf#page=2"]


def test_pages_that_were_not_asked_for_stay_when_a_document_changes(runs: Runs) -> None:
    make_pdf(runs.pages / "a.pdf", *REDS)
    assert runs() == 3
    make_pdf(runs.pages / "a.pdf", *reversed(REDS))
    assert runs("--resume", "--pages", "1") == 1
    assert len(runs.texts()) == 3


def test_the_store_says_what_each_page_took(runs: Runs) -> None:
    for number in range(3):
        make_page(runs.pages / f"{number}.png", number)
    answers = {"000001": Answer("half", "repetition")}
    assert runs(script=Script(answers=answers, again={"000001": [Answer("all of it")]})) == 4
    columns = "path, content, status, attempts, prompt_tokens, output_tokens, width"
    found = runs.stored(f"select {columns} from pages order by path")
    assert [row[0] for row in found] == [str(runs.pages / f"{n}.png") for n in range(3)]
    assert [row[2:5] for row in found] == [("ok", 1, 100), ("ok", 2, 100), ("ok", 1, 100)]
    assert found[1][5:] == (len("all of it") + 1, 12)
    assert found[0][1] == hashlib.sha256((runs.pages / "0.png").read_bytes()).hexdigest()
    (settings,) = runs.stored("select model, settings from settings")
    assert settings[0] == "mlx-community/chandra-bf16"
    assert json.loads(str(settings[1]))["max_tokens"] == 8192
