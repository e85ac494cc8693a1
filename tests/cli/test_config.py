"""Options come from the command line, the environment or a file, and the program says which from where."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from mlx_chandra.cli.main import main
from mlx_chandra.cli.model import ModelOptions
from mlx_chandra.engine.service import Service
from tests.cli.program import here, make_page, read
from tests.fakes import fake_service


@pytest.fixture(autouse=True)
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def config(text: str, name: str = "run.toml") -> str:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text, encoding="utf-8")
    return name


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["ocr", "--show-config", *arguments]) == 0
    return capsys.readouterr().out


def origins(said: str) -> dict[str, tuple[str, str]]:
    """name -> value as written, origin"""
    lines = (line.removeprefix("# ") for line in said.splitlines() if " =" in line)
    split = (line.partition(" =") for line in lines)
    return {name: (rest.rpartition("  # ")[0].strip(), rest.rpartition("  # ")[2]) for name, _, rest in split}


def test_the_command_line_wins_over_the_environment_and_that_over_the_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLX_CHANDRA_MAX_TOKENS", "22")
    monkeypatch.setenv("MLX_CHANDRA_MAX_SIZE", "222")
    file = config("max-tokens = 1\nmax-size = 1\nworkers = 1\n")
    found = origins(shown(capsys, "--config", file, "--max-tokens", "333"))
    assert found["max-tokens"] == ("333", "command line")
    assert found["max-size"] == ("222", "MLX_CHANDRA_MAX_SIZE")
    assert found["workers"] == ("1", "run.toml")
    assert found["prompt-type"] == ('"ocr_layout"', "default")
    assert found["dtype"] == ("", "default: what fits")


def test_a_run_works_with_what_file_and_environment_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_page(tmp_path / "in" / "a.png")
    monkeypatch.setenv("MLX_CHANDRA_MODEL", "demo")
    monkeypatch.setenv("MLX_CHANDRA_CONFIG", config('images-dir = "in"\noutput = "r.csv"\nmax_tokens = 99\n'))
    given: list[ModelOptions] = []

    def factory(options: ModelOptions) -> Service:
        given.append(options)
        return fake_service()

    assert main(["ocr", "--no-text"], factory) == 0
    assert (given[0].model, given[0].max_tokens) == ("demo", 99)
    assert len(read(tmp_path / "r.csv")) == 1


def test_relative_paths_of_a_file_are_seen_from_its_folder_and_others_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLX_CHANDRA_TEXT_DIR", "texts")
    file = config(
        'paths = ["a.pdf", "*.tif", "/b.png"]\noutput = "r.csv"\nmodel = "./chandra"\n', "jobs/run.toml"
    )
    said = tomllib.loads(shown(capsys, "--config", file, "--output-dir", "out"))
    jobs = str(tmp_path / "jobs")
    assert said["paths"] == [f"{jobs}/a.pdf", f"{jobs}/*.tif", "/b.png"]
    assert (said["output"], said["model"]) == (f"{jobs}/r.csv", f"{jobs}/chandra")
    assert (said["text-dir"], said["output-dir"]) == (str(tmp_path / "texts"), str(tmp_path / "out"))
    hub = tomllib.loads(shown(capsys, "--config", config('model = "some/name"\nmanifest = "-"\n')))
    assert (hub["model"], hub["manifest"]) == ("some/name", "-")


def test_what_show_config_prints_is_a_file_that_says_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = 'a "quoted"\ttab, \\, \x7f, é and \N{CAT FACE}'
    arguments = ["a.png", "b c.pdf", "-o", "r.csv", "--resume", "--prompt", odd, "--no-headers", "--paginate"]
    first = shown(capsys, *arguments, "--max-tokens", "5", "--output-dir", "out", "--pages=-2-")
    said = tomllib.loads(first)
    assert said["prompt"] == odd
    again = shown(capsys, "--config", config(first, "elsewhere/saved.toml"))
    assert tomllib.loads(again) == said
    assert said["paths"] == [str(tmp_path / "a.png"), str(tmp_path / "b c.pdf")]
    assert (said["resume"], said["headers"], said["paginate"], said["pages"]) == (True, False, True, "-2-")


def test_a_password_is_never_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLX_CHANDRA_PASSWORD", "hush-env")
    by_environment = shown(capsys)
    assert origins(by_environment)["password"] == ('"..."', "MLX_CHANDRA_PASSWORD; not shown")
    said = by_environment + shown(capsys, "--password", "hush-line")
    said += shown(capsys, "--config", config('password = "hush-file"'))
    assert main(["ocr", "--config", config('password = ["hush-list"]')]) == 2
    assert "hush" not in said + capsys.readouterr().err


def test_of_options_that_exclude_each_other_the_stronger_source_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLX_CHANDRA_TEXT_DIR", "texts")
    file = config('resume = true\nno-text = true\nmanifest = "list.txt"\nprompt = "Read."\n')
    said = shown(capsys, "--config", file, "--overwrite", "--prompt-type", "ocr", "a.png")
    found = origins(said)
    assert found["resume"][1].startswith("set aside: run.toml sets it, overwrite (command line)")
    assert tomllib.loads(said).items() >= {"overwrite": True, "prompt-type": "ocr"}.items()
    assert not {"resume", "manifest", "prompt", "no-text"} & set(tomllib.loads(said))
    make_page(tmp_path / "a.png")
    assert here("ocr", "a.png", "-o", "r.csv", "--config", file) == 0
    assert (tmp_path / "texts" / "a_ocr.txt").exists()


def test_a_switch_of_the_file_can_be_taken_back(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = config("verbose = true\nheaders = true\ninclude-images = false\n")
    assert tomllib.loads(shown(capsys, "--config", file))["include-images"] is False
    monkeypatch.setenv("MLX_CHANDRA_VERBOSE", "no")
    monkeypatch.setenv("MLX_CHANDRA_NO_HEADERS", "1")
    found = origins(shown(capsys, "--config", file, "--include-images"))
    assert found["verbose"] == ("false", "MLX_CHANDRA_VERBOSE")
    assert found["headers"] == ("false", "MLX_CHANDRA_NO_HEADERS")
    assert found["include-images"] == ("true", "command line")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("max-token = 5", ["'run.toml' sets 'max-token'", "Did you mean max-tokens?"]),
        ("[ocr]\nmax-tokens = 5", ["'run.toml' sets 'ocr'", "not in tables"]),
        ("max-tokens = 5\nmax-tokens = 6", ["'run.toml' is no TOML", "overwrite a value"]),
        ("max-tokens = 5\nmax_tokens = 6", ["max_tokens: max-tokens says the opposite"]),
        ("max-tokens = 0", ["'run.toml', max-tokens: '0' is not a whole number from 1 on"]),
        ("max-tokens = true", ["max-tokens: must be a whole number"]),
        ("max-tokens = 1.5", ["max-tokens: must be a whole number"]),
        ("output = 5", ["output: must be a text in quotes"]),
        ("resume = 1", ["resume: must be true or false"]),
        ('paths = "a.png"', ["paths: must be a list of texts"]),
        ('prompt-type = "other"', ["prompt-type: invalid choice: 'other' (choose from"]),
        ("resume = true\noverwrite = true", ["'run.toml' sets resume and overwrite"]),
        ('paths = ["a"]\nmanifest = "b"', ["'run.toml' sets paths and manifest"]),
        ('config = "other.toml"', ["sets 'config', which is no option that a file can set"]),
        ("headers = true\nno-headers = true", ["no-headers: headers says the opposite"]),
    ],
)
def test_a_wrong_file_is_wrong_usage_that_names_file_key_and_what_is_right(
    text: str, said: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ocr", "--config", config(text), "--show-config"]) == 2
    complained = capsys.readouterr().err
    assert all(word in complained for word in said), complained


def test_a_file_that_is_not_there_or_not_utf8_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ocr", "--config", "gone.toml"]) == 2
    assert "'gone.toml' can't be read: No such file" in capsys.readouterr().err
    Path("bytes.toml").write_bytes(b'prompt = "\xff"')
    assert main(["ocr", "--config", "bytes.toml"]) == 2
    assert "'bytes.toml' is no TOML" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("MLX_CHANDRA_MAX_TOKEN", "5", "Did you mean MLX_CHANDRA_MAX_TOKENS?"),
        ("MLX_CHANDRA_MAX_TOKENS", "many", "variable MLX_CHANDRA_MAX_TOKENS: 'many' is not a whole number"),
        ("MLX_CHANDRA_RESUME", "maybe", "MLX_CHANDRA_RESUME: must be one of 1, true, yes, on, 0"),
        ("MLX_CHANDRA_PROMPT_TYPE", "x", "MLX_CHANDRA_PROMPT_TYPE: invalid choice: 'x' (choose from"),
    ],
)
def test_a_wrong_variable_is_wrong_usage_that_names_it(
    variable: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(variable, value)
    assert main(["ocr", "--show-config"]) == 2
    complained = capsys.readouterr().err
    assert variable in complained
    assert said in complained


def test_two_variables_that_exclude_each_other_are_wrong_usage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLX_CHANDRA_RESUME", "1")
    monkeypatch.setenv("MLX_CHANDRA_OVERWRITE", "1")
    assert main(["ocr", "--show-config"]) == 2
    assert "sets MLX_CHANDRA_RESUME and MLX_CHANDRA_OVERWRITE" in capsys.readouterr().err
    monkeypatch.setenv("MLX_CHANDRA_OVERWRITE", "0")
    assert main(["ocr", "--show-config"]) == 0


def test_empty_variables_and_those_of_other_parts_say_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLX_CHANDRA_MAX_TOKENS", "")
    monkeypatch.setenv("MLX_CHANDRA_OPENBLAS", "0")
    assert origins(shown(capsys))["max-tokens"] == ("8192", "default")


def test_several_paths_stand_in_a_variable_as_in_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLX_CHANDRA_PATHS", "a.png:in")
    assert tomllib.loads(shown(capsys))["paths"] == [str(tmp_path / "a.png"), str(tmp_path / "in")]


def test_show_config_reads_and_writes_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(options: Any) -> Service:
        raise AssertionError("a service was opened")

    assert main(["ocr", "gone.png", "-o", "r.csv", "--show-config"], fails) == 0
    assert list(tmp_path.iterdir()) == []
    capsys.readouterr()


def test_what_may_be_given_several_times_is_a_list_elsewhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = config('rerun = ["status=truncated", "path=a:b"]')
    assert tomllib.loads(shown(capsys, "--config", file))["rerun"] == ["status=truncated", "path=a:b"]
    monkeypatch.setenv("MLX_CHANDRA_RERUN", "status=empty:path=x.png")
    assert tomllib.loads(shown(capsys, "--config", file))["rerun"] == ["status=empty", "path=x.png"]
    by_line = shown(capsys, "--config", file, "--rerun", "status=ok", "--rerun", "path=y")
    assert tomllib.loads(by_line)["rerun"] == ["status=ok", "path=y"]
    assert "rerun" not in tomllib.loads(shown(capsys, "--overwrite"))
