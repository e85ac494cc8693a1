"""`mlx-chandra bench`: real runs with the demo checkpoint, and what is said of machines that aren't here."""

import argparse
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mlx_chandra.cli.bench import (
    FORM,
    Outcome,
    PageFacts,
    Setup,
    conclusion,
    header,
    json_line,
    page_size,
    public_name,
    rows,
)
from mlx_chandra.cli.main import main
from mlx_chandra.engine.bench import ModelFacts, Point, Prefill, Skipped
from mlx_chandra.engine.device import Device, Host
from mlx_chandra.models.backend import BackendName
from tests.cli.program import environment, popen

SMALL = ["--model", "demo", "--page-size", "96x64", "--output-tokens", "20"]
GIB = 1 << 30
KEYS = {
    "mlx_chandra_bench", "mlx_chandra", "mlx", "device", "model", "page", "planned_batch_size", "prefill",
    "points", "skipped", "recommended_batch_size", "pages_per_second", "seconds", "interrupted",
}  # fmt: skip

MAC = Device(
    BackendName.METAL,
    "Apple M2",
    "applegpu_g14g",
    16 * GIB,
    11_453_251_584,
    8 * GIB,
    Host("macOS 15.5 arm64", 8, 16 * GIB),
)
FOUR_BITS = ModelFacts("bfloat16", 4, 64, 5 * GIB, 147_456)
BF16 = ModelFacts("bfloat16", None, None, 17_500_000_000, 147_456)
PAGE = PageFacts(1654, 2339, 736, 1024, 1190, 1000)
M2 = Setup(MAC, "mlx-community/chandra-4bit", FOUR_BITS, PAGE, planned=8)
POINTS = [Point(1, 0.08, 60, 6 * GIB, 0.0111, 11.1), Point(8, 0.2, 20, 7 * GIB, 0.0286, 28.6)]


def content(line: str) -> dict[str, Any]:
    assert "\n" not in line
    found: dict[str, Any] = json.loads(line)
    return found


def bench(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "mlx_chandra", "bench", *arguments],
        env=environment(), capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_a_run_prints_the_machine_a_table_the_batch_size_to_use_and_one_line_of_json() -> None:
    done = bench(*SMALL, "--seconds", "3")
    assert done.returncode == 0, done.stderr
    *shown, last = done.stdout.splitlines()
    found = content(last)
    assert set(found) == KEYS
    assert found["mlx_chandra_bench"] == FORM
    sizes = [point["batch_size"] for point in found["points"]]
    assert sizes[:4] == [1, 2, 4, 8]
    table = [line.split()[0] for line in shown if line[:6].strip().isdigit()]
    assert table == [str(size) for size in sizes]
    assert any(f"Use --batch-size {found['recommended_batch_size']}" in line for line in shown)
    assert found["pages_per_second"] > 0
    assert found["page"]["read_width"] == 96
    assert found["model"]["name"] == "demo"
    assert found["device"]["name"]
    assert not found["interrupted"]
    assert "Traceback" not in done.stderr


def test_one_batch_size_is_measured_alone_in_this_process(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *SMALL, "--seconds", "1", "--batch-size", "3"]) == 0
    *shown, last = capsys.readouterr().out.splitlines()
    assert [point["batch_size"] for point in content(last)["points"]] == [3]
    assert any(line.startswith("With --batch-size 3, expect") for line in shown)


def test_ctrl_c_keeps_what_was_measured_and_ends_with_130() -> None:
    long_answers = ["--page-size", "96x64", "--output-tokens", "7000", "--seconds", "600"]
    running = popen([sys.executable, "-m", "mlx_chandra", "bench", "--model", "demo", *long_answers])
    assert running.stdout is not None
    shown = []
    for line in running.stdout:
        shown.append(line)
        if line[:6].strip() == "1":  # the first row of the table
            running.send_signal(signal.SIGINT)
            break
    rest, complained = running.communicate(timeout=60)
    assert running.returncode == 130
    found = content(rest.splitlines()[-1])
    assert found["interrupted"]
    assert 1 <= len(found["points"]) < 6
    assert "Stopped early." in rest
    assert "Traceback" not in complained


def test_ctrl_c_before_anything_was_measured_says_so() -> None:
    outcome = Outcome([], 0.5, interrupted=True)
    assert "No batch size was measured." in conclusion(M2, outcome)
    found = content(json_line(M2, outcome))
    assert (found["prefill"], found["points"], found["recommended_batch_size"]) == (None, [], None)


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--model", "demo", "--output-tokens", "8000"], 2, "fewer --output-tokens"),
        (["--model", "demo", "--page-size", "30000x30000"], 2, "smaller --page-size"),
        (["--model", "demo", "--page-size", "9000x3"], 1, "9000x3 pixels"),
        (["--model", "demo", "--page-size", "A4"], 2, "'A4' is not a width and a height"),
        (["--model", "./nowhere"], 1, "nowhere does not exist"),
        (["--model", "demo", "--seconds", "0"], 2, "whole number from 1 on"),
    ],
)
def test_what_cant_be_measured_is_an_error_that_says_what_to_do(
    arguments: list[str], status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *arguments]) == status
    complained = capsys.readouterr()
    assert said in complained.err
    assert not complained.out


@pytest.mark.parametrize("text", ["1654x2339", "1654X2339", "1654×2339"])
def test_a_page_size_is_width_and_height(text: str) -> None:
    assert page_size(text) == (1654, 2339)


@pytest.mark.parametrize("text", ["", "0x5", "5x0", "5", "x5", "5x5x5", "-5x5", "5.5x5", "9999999x5"])
def test_anything_else_is_no_page_size(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        page_size(text)


def test_a_mac_is_named_with_its_memory_and_what_metal_lets_it_use() -> None:
    said = "\n".join(header(M2))
    assert "Apple M2 (applegpu_g14g), 16.0 GB of memory, 10.7 GB to compute in" in said
    assert "macOS 15.5 arm64, 8 cores" in said
    assert "on Metal" in said
    assert "bfloat16, 4-bit, weights 5.0 GB, cache 147 kB a token" in said
    assert "1654x2339 pixels, read at 736x1024: 1,190 prompt tokens, 1,000 tokens of answer" in said


def test_the_advice_names_the_batch_size_what_it_gives_and_what_is_missing() -> None:
    findings = [Prefill(28.0, 1, cold=True), *POINTS, Skipped((16, 32), "the time was up")]
    said = conclusion(M2, Outcome(findings, 118.0, interrupted=False))
    assert "Batch sizes not measured: 16, 32 (the time was up)." in said
    assert said[-1] == (
        "Use --batch-size 8 (which is what auto chooses): expect 0.029 pages/s, 103 pages an hour."
    )
    assert "the first pass" in rows(findings[0])[1]


def test_the_json_holds_everything_in_numbers_without_units() -> None:
    findings = [Prefill(0.123456789, 5, cold=False), *POINTS]
    found = content(json_line(M2, Outcome(findings, 60.0, interrupted=False)))
    assert set(found) == KEYS
    assert found["device"] == {
        "backend": "metal",
        "name": "Apple M2",
        "architecture": "applegpu_g14g",
        "memory": 16 * GIB,
        "working_set": 11_453_251_584,
        "largest_buffer": 8 * GIB,
        "system": "macOS 15.5 arm64",
        "cores": 8,
    }
    assert found["model"]["bits"] == 4
    assert found["prefill"] == {"seconds": 0.1235, "passes": 5, "cold": False}
    assert found["points"][1] == {
        "batch_size": 8,
        "step_seconds": 0.2,
        "steps": 20,
        "peak_memory": 7 * GIB,
        "pages_per_second": 0.0286,
        "tokens_per_second": 28.6,
    }
    assert (found["recommended_batch_size"], found["pages_per_second"]) == (8, 0.0286)


def test_the_json_names_no_folder_of_the_user(tmp_path: Path) -> None:
    folder = tmp_path / "clients" / "my-chandra"
    folder.mkdir(parents=True)
    assert public_name(str(folder)) == "my-chandra"
    assert public_name("mlx-community/chandra-bf16") == "mlx-community/chandra-bf16"
    setup = Setup(MAC, str(folder), FOUR_BITS, PAGE, 8)
    assert "clients" not in json_line(setup, Outcome(POINTS, 1.0, interrupted=False))
