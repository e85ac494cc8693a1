"""docs/options.md says of every option what the program says, and the variables on it are heard."""

import re

import pytest

from mlx_chandra.cli.config import LAYERED
from mlx_chandra.cli.main import main
from tests.test_house import help_of, options_in, text_of
from tools.options_page import page

ROW = re.compile(r"^\| `(.+?)`(.*?) \| `(MLX_CHANDRA_\w+)` \| (.*?) \|", re.MULTILINE)
VALUES = {"MAX_PIXELS": "77", "FORMAT": "json", "DTYPE": "float32", "PROMPT_TYPE": "ocr", "PAGES": "2"}
VALUES |= dict.fromkeys(("MAX_TOKENS", "MAX_SIZE", "BATCH_SIZE", "WORKERS", "RETRIES", "SAVE_EVERY"), "77")


def section(command: str) -> str:
    return text_of("docs/options.md").split(f"## `mlx-chandra {command}`\n")[1].split("\n## ")[0]


def variables() -> list[str]:
    return [match[3] for match in ROW.finditer(section("ocr"))]


def test_the_page_is_what_the_program_says() -> None:
    assert text_of("docs/options.md") == page(), "an option came, went or changed: run `make options`"


def test_every_command_and_every_option_in_the_help_is_on_the_page_and_no_other() -> None:
    commands = re.findall(r"^## `mlx-chandra (\w+)`", text_of("docs/options.md"), flags=re.MULTILINE)
    assert sorted(commands) == sorted(re.findall(r"^    (\w+) ", help_of(), flags=re.MULTILINE))
    for command in commands:
        rows = re.findall(r"^\| (`-.*?) \|", section(command), flags=re.MULTILINE)
        assert options_in(" ".join(rows)) == options_in(help_of(command)) - {"--help", "--version"}


def test_each_variable_on_the_page_sets_its_option(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = []
    for variable in set(variables()) - {"MLX_CHANDRA_CONFIG", "MLX_CHANDRA_SHOW_CONFIG"}:
        name = variable.removeprefix("MLX_CHANDRA_")
        row = rf"^\| `--{name.lower().replace('_', '-')}`(, `[^`]+`)* \|"
        is_switch = re.search(row, section("ocr"), re.MULTILINE)
        with monkeypatch.context() as only_here:
            only_here.setenv(variable, "1" if is_switch else VALUES.get(name, "keep"))
            status = main(["ocr", "--show-config"])
        if status or f"# {variable}" not in capsys.readouterr().out:
            wrong.append(variable)
    assert not wrong


def test_the_defaults_on_the_page_are_those_that_hold(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ocr", "--show-config"]) == 0
    lines = [line.removeprefix("# ") for line in capsys.readouterr().out.splitlines() if " =" in line]
    held = {line.split(" =")[0]: line for line in lines}
    on_page = {match[3]: match[4] for match in ROW.finditer(section("ocr"))}
    for name, line in held.items():
        default = on_page["MLX_CHANDRA_" + name.upper().replace("-", "_")]
        written = line.split(" =", 1)[1].rpartition("  # ")[0].strip().strip('"')
        said = line.rpartition("  # ")[2].removeprefix("default").removeprefix(": ")
        if written:
            assert default == {"false": "off"}.get(written, written)
        else:
            assert default in (said, "", "off", "on"), line


def test_the_page_that_explains_options_names_every_one() -> None:
    assert {"ocr", "bench"} == set(LAYERED)
    explained = text_of("docs/command-line.md")
    for match in ROW.finditer(section("ocr")):
        if match[1].startswith("--"):
            assert re.search(rf"^- .*`{match[1]}\b", explained, re.MULTILINE), match[1]
