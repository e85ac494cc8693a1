"""Holds the source to the shape that docs/architecture.md describes: who imports whom, and file sizes."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "src" / "mlx_chandra"
FILES = sorted(PACKAGE.rglob("*.py"))
LINES_AT_MOST = 400

# Lower layers may not import higher ones, and the parts of one layer don't know each other.
LAYERS = {
    "__version__": 0,  # the one name that parts of the package take from its __init__
    "errors": 0,
    "files": 1,
    "demo": 1,
    "processing": 2,
    "models": 2,
    "engine": 3,
    "documents": 3,
    "outputs": 3,
    "export": 4,
    "store": 4,
    "done": 4,
    "feed": 5,
    "measure": 5,
    "speeds": 5,
    "forecast": 6,
    "assembly": 5,
    "attempts": 5,
    "keeper": 6,
    "pipeline": 7,
    "cli": 8,
    "__main__": 9,
    "__init__": 9,
}
STRANGERS = {"documents", "outputs", "processing", "models"}

# batch_generate takes paths too, and opens them as the command line does.
SIDEWAYS = {("mlx_chandra.engine.batch", "mlx_chandra.documents.image_files")}

# What takes long to import is imported when first needed, so that --help answers at once.
HEAVY = {
    "bs4", "chandra", "huggingface_hub", "jinja2", "mlx", "nh3", "numpy", "openai", "PIL", "pillow_heif",
    "platformdirs", "pyarrow", "pydantic", "pypdfium2", "safetensors", "tokenizers", "torch", "tqdm",
    "transformers",
}  # fmt: skip
LIGHT_PARTS = {"cli", "errors", "__init__", "__main__"}


@dataclass(frozen=True)
class Import:
    """One module that a file imports, by its full name."""

    module: str
    line: int
    at_start: bool  # runs when the file is imported: neither in a function nor for type checkers alone

    @property
    def top(self) -> str:
        return self.module.partition(".")[0]


def part_of(module: str) -> str:
    """mlx_chandra.engine.batch -> engine"""
    names = module.split(".")
    return names[1] if len(names) > 1 else "__init__"


def module_name(path: Path) -> str:
    names = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(names[:-1] if names[-1] == "__init__" and len(names) > 2 else names)


def walk(node: ast.AST, package: str, at_start: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, child.lineno, at_start) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield from (Import(name, child.lineno, at_start) for name in sources(child, package))
        else:
            yield from walk(child, package, at_start and not waits(child))


def sources(node: ast.ImportFrom, package: str) -> list[str]:
    """The modules that a `from ... import ...` loads; relative ones are resolved against the package."""
    above = package.split(".")[: -(node.level - 1) or None] if node.level else []
    base = ".".join([*above, *([node.module] if node.module else [])])
    return [f"{base}.{alias.name}" for alias in node.names] if base == "mlx_chandra" else [base]


def waits(node: ast.AST) -> bool:
    """Whether what stands inside does not run when the file is imported."""
    if isinstance(node, ast.If):
        return ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def imports_in(source: str, module: str, is_package: bool) -> list[Import]:
    package = module if is_package else module.rpartition(".")[0]
    return list(walk(ast.parse(source), package, at_start=True))


def imports_of(path: Path) -> list[Import]:
    return imports_in(path.read_text(encoding="utf-8"), module_name(path), path.name == "__init__.py")


def upward(module: str, imported: str) -> bool:
    """Whether a module of ours imports another one that is not below it."""
    own, other = part_of(module), part_of(imported)
    if own == other or (module, imported) in SIDEWAYS:
        return False
    if own in STRANGERS and other in STRANGERS:
        return True
    return LAYERS[other] >= LAYERS[own]


files = pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(PACKAGE)) for path in FILES])


def where(path: Path, found: list[Import]) -> list[str]:
    return [f"{path.relative_to(PACKAGE.parent)}:{item.line} imports {item.module}" for item in found]


@files
def test_imports_point_down_only(path: Path) -> None:
    ours = [item for item in imports_of(path) if item.top == "mlx_chandra"]
    assert not where(path, [item for item in ours if upward(module_name(path), item.module)])


@files
def test_mlx_is_imported_only_where_arrays_are(path: Path) -> None:
    name = module_name(path)
    if part_of(name) in ("models", "engine") and name != "mlx_chandra.engine.scheduler":
        return
    assert not where(path, [item for item in imports_of(path) if item.top == "mlx"])


@files
def test_heavy_libraries_wait_until_they_are_needed(path: Path) -> None:
    if part_of(module_name(path)) not in LIGHT_PARTS:
        return
    assert not where(path, [item for item in imports_of(path) if item.top in HEAVY and item.at_start])


@files
def test_no_file_is_longer_than_400_lines_and_none_is_called_utils(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LINES_AT_MOST
    assert path.stem not in ("utils", "util", "helpers", "misc", "common")


@files
def test_no_public_function_hands_keyword_arguments_through(path: Path) -> None:
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert not [f"{node.name}(**{node.args.kwarg.arg})" for node in functions if node.args.kwarg]


@files
def test_every_file_says_what_it_is_for(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(source)) or not source.strip()


def test_every_part_of_the_package_has_a_layer() -> None:
    assert {part_of(module_name(path)) for path in FILES} <= set(LAYERS)


def test_the_rules_see_relative_late_and_type_only_imports() -> None:
    source = "\n".join([
        "from . import scheduler",
        "from ..errors import PageError",
        "from mlx_chandra import pipeline",
        "if TYPE_CHECKING:",
        "    import numpy",
        "try:",
        "    import PIL.Image",
        "finally:",
        "    pass",
        "def late():",
        "    import mlx.core",
    ])  # fmt: skip
    found = imports_in(source, "mlx_chandra.engine.batch", is_package=False)
    assert [(item.module, item.at_start) for item in found] == [
        ("mlx_chandra.engine", True),
        ("mlx_chandra.errors", True),
        ("mlx_chandra.pipeline", True),
        ("numpy", False),
        ("PIL.Image", True),
        ("mlx.core", False),
    ]


@pytest.mark.parametrize(
    ("module", "imported", "broken"),
    [
        ("mlx_chandra.engine.batch", "mlx_chandra.pipeline", True),
        ("mlx_chandra.engine.batch", "mlx_chandra.documents.pdf", True),
        ("mlx_chandra.engine.batch", "mlx_chandra.documents.image_files", False),
        ("mlx_chandra.engine.generator", "mlx_chandra.documents.image_files", True),
        ("mlx_chandra.documents.pdf", "mlx_chandra.processing.image", True),
        ("mlx_chandra.processing.image", "mlx_chandra.models", True),
        ("mlx_chandra.errors", "mlx_chandra.engine.batch", True),
        ("mlx_chandra.engine.batch", "mlx_chandra.processing.image", False),
        ("mlx_chandra.cli.ocr", "mlx_chandra.pipeline", False),
        ("mlx_chandra.cli.bench", "mlx_chandra.measure", False),
        ("mlx_chandra.engine.timing", "mlx_chandra.measure", True),
        ("mlx_chandra.models.load", "mlx_chandra.errors", False),
        ("mlx_chandra.models.load", "mlx_chandra.models.config", False),
    ],
)
def test_the_rules_tell_up_from_down(module: str, imported: str, broken: bool) -> None:
    assert upward(module, imported) is broken
