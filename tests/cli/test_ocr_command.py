"""`mlx-chandra ocr` does what it says: inputs, results, resuming, texts, exit statuses."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlx_chandra.cli.main import main
from mlx_chandra.cli.model import ModelOptions
from mlx_chandra.engine.service import Service
from tests.cli.program import ROOT, environment, here, make_page, process, read, start, statuses
from tests.documents.test_image_files import declared_png
from tests.fakes import Answer, Script, fake_service, text_for


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    return tmp_path / "pages"


def ocr(pages: Path, *more: str, script: Script | None = None) -> int:
    output = str(pages.parent / "r.csv")
    return here("ocr", "--images-dir", str(pages), "-o", output, *more, script=script)


def test_a_folder_becomes_a_csv_and_text_files(pages: Path, tmp_path: Path) -> None:
    names = ["a.png", "B.JPG", "c.jpeg", "d.TIF", "e.tiff", "f.bmp", "g.WebP", "sub/deep/h.PNG"]
    for number, name in enumerate(names):
        make_page(pages / name, number)
    done = process(Script(), tmp_path, "ocr", "--images-dir", str(pages), "--output", str(tmp_path / "r.csv"))
    assert done.returncode == 0, done.stderr
    rows = read(tmp_path / "r.csv")
    assert sorted(row.path for row in rows) == sorted(str(pages / name) for name in names)
    for row in rows:
        assert row.status == "ok"
        assert row.text == text_for(Image.open(row.path).convert("RGB"))
        path = Path(row.path)
        assert path.with_name(path.stem + "_ocr.txt").read_text() == row.text
    assert "8 pages ok, 0 failed" in done.stdout
    assert str(tmp_path / "r.csv") in done.stdout
    texts = [p for p in pages.rglob("*") if p.is_file() and p.suffix == ".txt"]
    assert len(texts) == 8
    assert sorted(os.listdir(tmp_path)) == ["pages", "r.csv", "r.csv.journal.sqlite", "script.json"]


def test_ocr_batch_is_the_same_command(pages: Path, tmp_path: Path) -> None:
    make_page(pages / "a.png")

    def output(*start: str) -> str:
        command = [sys.executable, *start, "--help"]
        return subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True).stdout

    assert output(str(ROOT / "ocr_batch.py")) == output("-m", "mlx_chandra", "ocr") != ""


def test_ocr_batch_works_from_a_checkout_that_is_not_installed(tmp_path: Path) -> None:
    bare = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "ocr_batch.py"), "--images-dir", "gone", "-o", "r.csv"],
        cwd=tmp_path,
        env=bare,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "There is no folder 'gone'" in done.stderr


def test_a_manifests_missing_files_get_rows_and_its_duplicates_one_run(pages: Path, tmp_path: Path) -> None:
    make_page(pages / "a.png", 1)
    make_page(pages / "b.png", 2)
    (tmp_path / "list.txt").write_text("pages/a.png\n\npages/gone.png\npages/b.png\n./pages/a.png\n")
    status = here("ocr", "--manifest", str(tmp_path / "list.txt"), "-o", str(tmp_path / "r.csv"))
    assert status == 1
    assert statuses(tmp_path / "r.csv", pages) == {
        "a.png": "ok", "b.png": "ok", "gone.png": "error:missing: there is no such file",
    }  # fmt: skip


def make_bad_inputs(pages: Path) -> dict[str, str]:
    """All the bad inputs that people have; what their statuses start with."""
    pages.mkdir()
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (200, 200, 3), dtype=np.uint8))
    expected: dict[str, str] = {}

    def good(name: str) -> Path:
        expected[name] = "ok"
        return pages / name

    def bad(name: str, kind: str) -> Path:
        expected[name] = f"error:{kind}: "
        return pages / name

    bad("empty.png", "unreadable").write_bytes(b"")
    noise.save(path := bad("truncated.jpg", "unreadable"))
    path.write_bytes(path.read_bytes()[:9000])
    bad("text.png", "unreadable").write_text("Dear Sir or Madam,\n" * 40)
    bad("huge.png", "too-large").write_bytes(declared_png(60000, 60000))
    make_page(good("one.png"), size=(1, 1))
    make_page(bad("thin.png", "shape"), size=(1, 5000))
    Image.new("RGB", (80, 60), "white").save(good("white.png"))
    Image.new("RGB", (80, 60), "black").save(good("black.png"))
    noise.convert("CMYK").save(good("cmyk.jpg"))
    Image.fromarray(rng.integers(0, 65536, (50, 40), dtype=np.uint16)).save(good("sixteen.png"))
    noise.convert("P").save(good("palette.png"))
    noise.convert("RGBA").save(good("alpha.png"))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20), "white").save(good("rotated.jpg"), exif=exif)
    os.mkfifo(bad("pipe.png", "unreadable"))
    bad("broken.png", "broken-link").symlink_to("nowhere.png")
    bad("loop.png", "broken-link").symlink_to("loop.png")
    (pages / "round").symlink_to(pages)
    (pages / "x.png").mkdir()
    make_page(good("x.png/inside.png"), 9)
    odd = ["two words.png", "line\nbreak.png", "\N{CAT FACE}\N{ZERO WIDTH JOINER}.png", 'q"uote, comma.png']
    for number, name in enumerate(odd):
        make_page(good(name), 10 + number)
    if sys.platform != "darwin":  # whose file system takes UTF-8 only
        make_page(pages / "plain.png", 20).rename(pages / os.fsdecode(b"bytes\xff.png"))
        expected["bytes\\xff.png"] = "ok"
    return expected


def test_every_bad_input_gives_a_right_result_or_its_own_row(pages: Path, tmp_path: Path) -> None:
    expected = make_bad_inputs(pages)
    arguments = ["ocr", "--images-dir", str(pages), "-o", str(tmp_path / "r.csv")]
    done = process(Script(), tmp_path, *arguments)
    assert done.returncode == 1, done.stderr
    found = statuses(tmp_path / "r.csv", pages)
    assert set(found) == set(expected)
    for name, status in found.items():
        assert status == "ok" if expected[name] == "ok" else status.startswith(expected[name]), (name, status)
    rotated = next(row for row in read(tmp_path / "r.csv") if row.path.endswith("rotated.jpg"))
    assert "20 x 30" in rotated.text
    failed = sum(status != "ok" for status in expected.values())
    assert f"{len(expected) - failed} pages ok, {failed} failed" in done.stdout
    assert done.stderr == ""
    again = process(Script(), tmp_path, *arguments, "--resume")
    assert again.returncode == 0
    assert f"all {len(expected)} pages are in the results already" in again.stdout


def test_results_that_are_there_are_neither_mixed_nor_lost_unasked(
    pages: Path, tmp_path: Path, capfd: object
) -> None:
    make_page(pages / "a.png")
    assert ocr(pages) == 0
    before = (tmp_path / "r.csv").read_bytes()
    assert ocr(pages) == 2
    assert (tmp_path / "r.csv").read_bytes() == before
    assert "--resume" in capfd.readouterr().err  # type: ignore[attr-defined]


def test_resume_reads_what_is_missing_and_leaves_failed_pages(pages: Path, tmp_path: Path) -> None:
    for number in range(4):
        make_page(pages / f"{number}.png", number)
    (pages / "1.png").write_bytes(b"")
    assert ocr(pages) == 1
    make_page(pages / "1.png", 1)
    make_page(pages / "4.png", 4)
    assert ocr(pages, "--resume") == 0
    found = statuses(tmp_path / "r.csv", pages)
    assert found["4.png"] == "ok"
    assert found["1.png"] == "error:unreadable: the file is empty"


def test_retry_errors_reads_failed_pages_again(pages: Path, tmp_path: Path) -> None:
    for number in range(4):
        make_page(pages / f"{number}.png", number)
    (pages / "1.png").write_bytes(b"")
    script = Script(answers={"000002": Answer("so far", "length")})
    assert ocr(pages, script=script) == 1
    make_page(pages / "1.png", 1)
    assert ocr(pages, "--retry-errors") == 0
    assert set(statuses(tmp_path / "r.csv", pages).values()) == {"ok"}
    assert len(read(tmp_path / "r.csv")) == 4
    assert (pages / "2_ocr.txt").read_text() != "so far"


def test_overwrite_starts_anew(pages: Path, tmp_path: Path) -> None:
    make_page(pages / "a.png")
    assert ocr(pages) == 0
    (pages / "a.png").unlink()
    make_page(pages / "b.png")
    assert ocr(pages, "--overwrite") == 0
    assert list(statuses(tmp_path / "r.csv", pages)) == ["b.png"]


def test_text_dir_holds_the_same_tree(pages: Path, tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg", "sub/b.png"):
        make_page(pages / name)
    assert ocr(pages, "--text-dir", str(tmp_path / "texts")) == 0
    texts = sorted(str(p.relative_to(tmp_path / "texts")) for p in (tmp_path / "texts").rglob("*.txt"))
    assert texts == ["a.jpg_ocr.txt", "a.png_ocr.txt", "sub/b_ocr.txt"]
    assert not list(pages.rglob("*.txt"))


def test_no_text_writes_none(pages: Path) -> None:
    make_page(pages / "a.png")
    assert ocr(pages, "--no-text") == 0
    assert not list(pages.rglob("*.txt"))


def test_save_every_is_taken_and_changes_nothing(
    pages: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_page(pages / "a.png")
    assert ocr(pages) == 0
    before = (tmp_path / "r.csv").read_bytes()
    assert ocr(pages, "--save-every", "50", "--resume") == 0
    assert "Nothing to do" in capsys.readouterr().out
    assert (tmp_path / "r.csv").read_bytes() == before
    assert ocr(pages, "--save-every", "0") == 2
    assert "not a whole number from 1 on" in capsys.readouterr().err


def test_rows_stand_in_the_order_of_the_input(pages: Path, tmp_path: Path) -> None:
    words = " ".join(f"word{number}" for number in range(90))
    answers = {f"{number:06x}": Answer(words[: 60 * (9 - number)]) for number in range(9)}
    for number in range(9):
        make_page(pages / f"{number}.png", number)
    assert ocr(pages, script=Script(answers=answers, slots=9)) == 0
    assert [Path(row.path).name for row in read(tmp_path / "r.csv")] == [f"{n}.png" for n in range(9)]
    make_page(pages / "4a.png", 44)
    assert ocr(pages, "--rerun", "path=*2.png") == 0
    names = [Path(row.path).name for row in read(tmp_path / "r.csv")]
    assert names == sorted([*(f"{n}.png" for n in range(9)), "4a.png"])


def test_verbose_gives_a_line_for_each_batch(pages: Path, tmp_path: Path) -> None:
    for number in range(10):
        make_page(pages / f"{number}.png", number)
    arguments = ["ocr", "--images-dir", str(pages), "-o", str(tmp_path / "r.csv"), "--verbose"]
    done = process(Script(slots=4, step=0.05), tmp_path, *arguments)
    lines = done.stderr.splitlines()
    assert 2 <= len(lines) <= 4
    for word in ("prompt and", "output tokens", "tokens/s", "of 4 slots in use", "memory 1.00 GB"):
        assert all(word in line for line in lines), (word, lines)
    assert lines[-1].startswith("10 of 10 pages: ")
    prompt_tokens = sum(int(line.split(": ")[1].split()[0].replace(",", "")) for line in lines)
    assert prompt_tokens == 10 * 100


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--images-dir", "."], "--output"),
        (["--images-dir", "gone", "-o", "r.csv"], "There is no folder 'gone'"),
        (["--manifest", "gone", "-o", "r.csv"], "The manifest 'gone' can't be read"),
        (["--images-dir", ".", "-o", "r.csv", "--batch-size", "0"], "neither auto nor a whole number"),
        (["--images-dir", ".", "-o", "r.csv", "--max-tokens", "0"], "not a whole number from 1 on"),
        (["--images-dir", ".", "-o", "r.csv", "--max-size", "-1"], "not a whole number from 0 on"),
        (["--images-dir", ".", "-o", "r.csv", "--resume", "--overwrite"], "not allowed with"),
        (["--images-dir", ".", "-o", "r.csv", "--no-text", "--text-dir", "t"], "not allowed with"),
        (["--images-dir", ".", "-o", "r.csv", "--prompt", "p", "--prompt-type", "ocr"], "not allowed with"),
    ],
)
def test_wrong_usage_is_status_2_and_says_what_is_wrong(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: object
) -> None:
    monkeypatch.chdir(tmp_path)
    assert here("ocr", *arguments) == 2
    assert said in capfd.readouterr().err  # type: ignore[attr-defined]
    assert os.listdir(tmp_path) == []


def test_the_options_reach_the_model(pages: Path, tmp_path: Path) -> None:
    make_page(pages / "a.png")
    given: list[ModelOptions] = []

    def factory(options: ModelOptions) -> Service:
        given.append(options)
        return fake_service()

    base = ["ocr", "--images-dir", str(pages), "-o", str(tmp_path / "r.csv"), "--overwrite"]
    assert main(base, factory) == 0
    more = (
        "--model demo --dtype float32 --prompt-type ocr --max-tokens 99 --max-size 0 --batch-size 5".split()
    )
    assert main([*base, *more], factory) == 0
    assert main([*base, "--prompt", "Read this.", "--batch-size", "auto"], factory) == 0
    model = "mlx-community/chandra-bf16"
    assert given[0] == ModelOptions(model, None, None, "ocr_layout", 8192, 1024, None, 3, False)
    assert given[1] == ModelOptions("demo", "float32", None, "ocr", 99, 0, 5, 3, False)
    assert (given[2].prompt, given[2].batch_size) == ("Read this.", None)


def test_a_model_that_is_not_to_be_had_is_said_with_what_to_do(pages: Path, tmp_path: Path) -> None:
    make_page(pages / "a.png")
    offline = {**environment(), "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}
    command = [
        sys.executable,
        "-m",
        "mlx_chandra",
        "ocr",
        "--images-dir",
        str(pages),
        "-o",
        str(tmp_path / "r.csv"),
    ]
    done = subprocess.run(command, env=offline, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "mlx-community/chandra-bf16" in done.stderr
    assert "--model demo" in done.stderr
    assert "Traceback" not in done.stderr


def wait_for_rows(path: Path, count: int) -> None:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if path.exists() and path.read_bytes().count(b",ok,") >= count:
            return
        time.sleep(0.01)
    pytest.fail("the run does not get on")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_while_the_model_loads_stops_the_program(
    pages: Path, tmp_path: Path, number: signal.Signals
) -> None:
    make_page(pages / "a.png")
    arguments = ["ocr", "--images-dir", str(pages), "-o", str(tmp_path / "r.csv")]
    running = start(Script(loading=30.0), tmp_path, *arguments)
    while not (tmp_path / "r.csv").exists():
        time.sleep(0.02)
    time.sleep(0.3)
    running.send_signal(number)
    _, complained = running.communicate(timeout=10)
    assert running.returncode == 130
    assert complained.strip() == "mlx-chandra: stopped."
    assert process(Script(), tmp_path, *arguments, "--resume").returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_keeps_what_is_finished_and_says_how_to_go_on(
    pages: Path, tmp_path: Path, number: signal.Signals
) -> None:
    for page in range(60):
        make_page(pages / f"{page:02}.png", page)
    arguments = ["ocr", "--images-dir", str(pages), "-o", str(tmp_path / "r.csv")]
    running = start(Script(step=0.02), tmp_path, *arguments)
    wait_for_rows(tmp_path / "r.csv", 5)
    running.send_signal(number)
    said, complained = running.communicate(timeout=20)
    assert running.returncode == 130, complained
    assert "--resume" in said
    assert "Traceback" not in complained
    done = read(tmp_path / "r.csv")
    assert 5 <= len(done) < 60
    assert f"{len(done)} pages ok" in said
    assert process(Script(), tmp_path, *arguments, "--resume").returncode == 0
    assert len(read(tmp_path / "r.csv")) == 60


def test_a_second_ctrl_c_ends_at_once(pages: Path, tmp_path: Path) -> None:
    for page in range(20):
        make_page(pages / f"{page:02}.png", page)
    running = start(
        Script(step=3.0), tmp_path, "ocr", "--images-dir", str(pages), "-o", str(tmp_path / "r.csv")
    )
    while not (tmp_path / "r.csv").exists():
        time.sleep(0.02)
    time.sleep(0.5)
    running.send_signal(signal.SIGINT)
    time.sleep(0.3)
    began = time.monotonic()
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=20)
    assert running.returncode == 130
    assert time.monotonic() - began < 1.5


def test_a_second_run_on_one_output_stops_and_says_why(pages: Path, tmp_path: Path) -> None:
    for page in range(30):
        make_page(pages / f"{page:02}.png", page)
    arguments = ["ocr", "--images-dir", str(pages), "-o", str(tmp_path / "r.csv"), "--resume"]
    first = start(Script(step=0.05), tmp_path, *arguments)
    try:
        wait_for_rows(tmp_path / "r.csv", 1)
        second = process(Script(), tmp_path, *arguments)
        assert second.returncode == 1
        assert f"Another run (process {first.pid}) is writing" in second.stderr
    finally:
        first.communicate(timeout=30)
    assert first.returncode == 0
    assert len(read(tmp_path / "r.csv")) == 30
