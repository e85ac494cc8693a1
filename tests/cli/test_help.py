"""Help answers at once, and names what there is."""

import subprocess
import sys
import time

import pytest

from mlx_chandra import __version__
from mlx_chandra.cli.main import main
from tests.cli.program import environment

HEAVY = (
    "mlx",
    "PIL",
    "numpy",
    "tokenizers",
    "huggingface_hub",
    "tqdm",
    "jinja2",
    "pypdfium2",
    "bs4",
    "chandra",
    "nh3",
)


@pytest.mark.parametrize("arguments", [["--help"], ["ocr", "--help"], ["bench", "--help"], ["--version"]])
def test_help_loads_nothing_heavy_and_answers_within_half_a_second(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom mlx_chandra.cli.main import main\n"
        f"status = main({arguments})\n"
        f"print([m for m in {HEAVY} if m in sys.modules], status, file=sys.stderr)"
    )
    seconds = []
    for _ in range(3):  # the best of three: the machine may be busy
        began = time.monotonic()
        done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True)
        seconds.append(time.monotonic() - began)
        assert done.stderr == "[] 0\n"
        assert done.stdout
    assert min(seconds) < 0.5


def test_the_programs_help_lists_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert "ocr" in said
    assert "show" in said
    assert "bench" in said


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--version"], ["ocr", "--version"]):
        assert main(arguments) == 0
        assert capsys.readouterr().out == f"mlx-chandra {__version__}\n"


def test_no_command_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "COMMAND" in capsys.readouterr().err
