"""The files around the code keep their promises: commands, versions, locks, the package, documentation."""

import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import mlx_chandra

ROOT = Path(__file__).parent.parent
HEAVY = ("mlx", "PIL", "tokenizers", "huggingface_hub", "numpy", "chandra", "jinja2", "tqdm")

# Addresses that readers are sent to. Package registries are not among them: pip knows its own.
HOSTS = {"arxiv.org", "github.com", "huggingface.co", "keepachangelog.com", "semver.org", "www.w3.org"}
# Paths that exist on one machine alone, such as those of somebody's home folder.
MACHINE_PATH = re.compile(r"(?<![\w.~/:}*-])/(?:home|root|opt|work|srv|mnt|Users)/[\w.]")
BINARY = {".safetensors", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".npz", ".pdf", ".ttf"}


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def tracked_files() -> list[Path]:
    """What is in git or would be added to it; without git, everything but folders that start with a dot."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, check=False,
    )  # fmt: skip
    if listed.returncode == 0:
        found = [ROOT / os.fsdecode(name) for name in listed.stdout.split(b"\0") if name]
    else:
        found = [p for p in ROOT.rglob("*") if not any(n.startswith(".") for n in p.relative_to(ROOT).parts)]
    return [path for path in found if path.is_file() and path.suffix.lower() not in BINARY]


def pins(name: str) -> dict[str, str]:
    """name -> version [; marker] of every line of a lock."""
    lines = [line for line in text_of(f"requirements/{name}.txt").splitlines() if line.strip()]
    return dict(line.split("==", 1) for line in lines if not line.lstrip().startswith("#"))


def project() -> dict[str, object]:
    found: dict[str, object] = tomllib.loads(text_of("pyproject.toml"))["project"]
    return found


def help_of(*command: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, "-m", "mlx_chandra", *command, "--help"],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout


def options_in(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", ".github/workflows/ci.yml", ".ci/run",
                                  ".pre-commit-config.yaml"])  # fmt: skip
def test_every_make_command_that_is_named_exists(name: str) -> None:
    code = re.sub(r"^ *#.*$", "", text_of(name), flags=re.MULTILINE)  # prose makes many things
    start = r"(?:`|^|    |run: |entry: |\" )(?:\w+=\S+ )*"
    named = set(re.findall(start + r"make ([a-z]+)\b", code, flags=re.MULTILINE))
    targets = set(re.findall(r"^([a-z]+):", text_of("Makefile"), flags=re.MULTILINE))
    assert named
    assert named <= targets


def test_pyproject_the_package_and_the_changelog_name_one_version() -> None:
    newest = re.search(r"^## \[(\d[^\]]*)\]", text_of("CHANGELOG.md"), flags=re.MULTILINE)
    assert newest is not None
    assert project()["version"] == mlx_chandra.__version__ == newest.group(1)


@pytest.mark.parametrize("name", ["demo", "test", "check", "bench"])
def test_every_line_of_a_lock_names_one_exact_version(name: str) -> None:
    assert all(re.match(r"\d[\w.]*( ;|$)", version) for version in pins(name).values())


@pytest.mark.parametrize("name", ["demo", "test", "bench"])
def test_the_locks_agree_with_each_other(name: str) -> None:
    widest = pins("check")
    differing = {
        package: (version, widest[package])
        for package, version in pins(name).items()
        if package in widest and version.split()[0] != widest[package].split()[0]
    }
    assert not differing


def test_every_dependency_is_in_the_lock_of_the_demo() -> None:
    dependencies = project()["dependencies"]
    assert isinstance(dependencies, list)
    names = {re.split(r"[<>=\[; ]", item)[0].replace("_", "-") for item in dependencies}
    assert names <= set(pins("demo"))


def test_no_large_build_of_torch_is_asked_for_by_a_lock() -> None:
    assert not [
        name
        for lock in ("demo", "test", "check", "bench")
        for name in pins(lock)
        if name.startswith("nvidia-")
    ]
    assert "torch" not in pins("demo")
    assert "torch" not in pins("test")


def test_the_wheel_holds_types_marker_demo_checkpoint_and_command(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT, capture_output=True, check=True,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        names = set(opened.namelist())
        (entry_points,) = [name for name in names if name.endswith("entry_points.txt")]
        assert "mlx-chandra = mlx_chandra.cli.main:main" in opened.read(entry_points).decode()
    package = ROOT / "src" / "mlx_chandra"
    ours = [path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert {f"mlx_chandra/{path.relative_to(package).as_posix()}" for path in ours} <= names
    assert {"mlx_chandra/py.typed", "mlx_chandra/demo/checkpoint/config.json"} <= names
    assert not [name for name in names if name.startswith(("tests/", "tools/", "benchmarks/"))]


def test_importing_the_package_loads_nothing_heavy() -> None:
    program = f"import sys, json, mlx_chandra; print(json.dumps([m for m in {HEAVY} if m in sys.modules]))"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == []


@pytest.mark.parametrize("name", mlx_chandra.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(mlx_chandra, name) is not None
    assert name in dir(mlx_chandra)


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = mlx_chandra.no_such_name


def test_files_send_readers_only_to_known_addresses() -> None:
    found = {
        (str(path.relative_to(ROOT)), host)
        for path in tracked_files()
        for host in re.findall(r"https?://([\w.-]+)", path.read_text(encoding="utf-8", errors="replace"))
    }
    assert not sorted(item for item in found if item[1] not in HOSTS)


def test_no_file_names_a_path_of_one_machine() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {match.group()}"
        for path in tracked_files()
        for match in MACHINE_PATH.finditer(path.read_text(encoding="utf-8", errors="replace"))
    ]
    assert not found


def test_every_option_of_every_command_is_documented_and_no_other() -> None:
    documented = text_of("docs/command-line.md")
    commands = re.findall(r"^## `mlx-chandra (\w+)`", documented, flags=re.MULTILINE)
    assert {"ocr", "show"} <= set(commands)
    for command in commands:
        assert re.search(rf"\b{command}\b", help_of())
        section = documented.split(f"## `mlx-chandra {command}`")[1].split("\n## ")[0]
        section = re.sub(rf".*mlx-chandra (?!{command}\b)[a-z]+ .*", "", section)  # another command is run
        assert options_in(section) | {"--help"} == options_in(help_of(command)) | {"--help"}


def test_every_link_between_documents_leads_somewhere() -> None:
    broken = [
        f"{path.relative_to(ROOT)} -> {target}"
        for path in tracked_files()
        if path.suffix == ".md"
        for target in re.findall(r"\]\(([^)#\s]+)\)", path.read_text(encoding="utf-8"))
        if "://" not in target and not (path.parent / target).exists()
    ]
    assert not broken
