"""Holds the source to the shape that docs/architecture.md describes: who imports whom, and file sizes."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "src" / "mlx_chandra"
FILES = sorted(PACKAGE.rglob("*.py"))
LINES_AT_MOST = 400

# What a part may import besides itself. A part that isn't here yet comes with the first file of its folder.
BASE = {"__version__", "errors", "files"}
READING = BASE | {"demo", "models", "processing", "documents", "engine"}
CLIENT = READING | {"reading", "store", "export"}
MAY_IMPORT = {
    "errors": set[str](),
    "files": BASE,
    "demo": BASE,
    "processing": BASE,
    "models": BASE | {"demo"},
    "documents": BASE,
    "engine": BASE | {"models", "processing"},
    "store": BASE | {"documents"},
    "export": BASE | {"documents"},
    "reading": READING,
    "server": CLIENT,
    "review": CLIENT,
    "cluster": CLIENT,
    "cli": CLIENT | {"server", "review", "cluster"},
    "__main__": {"cli"},
    "__init__": READING | {"reading"},
}
# One file of a part may do more.
MODULE_MAY_IMPORT = {
    "mlx_chandra.reading.run": {"store", "export"},
}

MLX_PARTS = {"models", "engine"}
NO_MLX = {"mlx_chandra.engine.scheduler"}
MLX_TYPES = {"mlx_chandra.reading.batch"}  # may name mlx's types for type checkers

# What takes long to import is imported when first needed, so that --help answers at once.
HEAVY = {
    "bs4", "chandra", "huggingface_hub", "jinja2", "mlx", "nh3", "numpy", "openai", "PIL", "pillow_heif",
    "platformdirs", "pyarrow", "pydantic", "pypdfium2", "safetensors", "tokenizers", "torch", "tqdm",
    "transformers",
}  # fmt: skip
LIGHT_PARTS = {"cli", "errors", "__init__", "__main__"}


@dataclass(frozen=True)
class Import:
    """One module that a file imports, by its full name; `when`: at "start", "late", or for "types" alone."""

    module: str
    line: int
    when: str

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


def walk(node: ast.AST, package: str, when: str = "start") -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, child.lineno, when) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield from (Import(name, child.lineno, when) for name in sources(child, package))
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from walk(child, package, "types")
        else:
            is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            yield from walk(child, package, "late" if is_function else when)


def sources(node: ast.ImportFrom, package: str) -> list[str]:
    """The modules that a `from ... import ...` loads; relative ones are resolved against the package."""
    above = package.split(".")[: -(node.level - 1) or None] if node.level else []
    base = ".".join([*above, *([node.module] if node.module else [])])
    return [f"{base}.{alias.name}" for alias in node.names] if base == "mlx_chandra" else [base]


def imports_in(source: str, module: str, is_package: bool) -> list[Import]:
    return list(walk(ast.parse(source), module if is_package else module.rpartition(".")[0]))


def imports() -> Iterator[tuple[str, Import]]:
    """Each module of ours with each of its imports."""
    for path in FILES:
        name = module_name(path)
        for item in imports_in(path.read_text(encoding="utf-8"), name, path.name == "__init__.py"):
            yield name, item


def is_allowed(module: str, imported: str) -> bool:
    """Whether a module of ours may import another one."""
    own, other = part_of(module), part_of(imported)
    return own == other or other in MAY_IMPORT[own] | MODULE_MAY_IMPORT.get(module, set())


def may_import_mlx(module: str, when: str) -> bool:
    if module in MLX_TYPES:
        return when == "types"
    return part_of(module) in MLX_PARTS and module not in NO_MLX


def said(module: str, item: Import) -> str:
    return f"{module}, line {item.line}: {item.module}"


def test_each_part_imports_only_parts_below_it() -> None:
    ours = [(module, item) for module, item in imports() if item.top == "mlx_chandra"]
    assert not [said(module, item) for module, item in ours if not is_allowed(module, item.module)]


def test_mlx_is_imported_only_where_arrays_are() -> None:
    mlx = [(module, item) for module, item in imports() if item.top == "mlx"]
    assert not [said(module, item) for module, item in mlx if not may_import_mlx(module, item.when)]


def test_heavy_libraries_wait_until_they_are_needed() -> None:
    heavy = [(module, item) for module, item in imports() if item.top in HEAVY and item.when == "start"]
    assert not [said(module, item) for module, item in heavy if part_of(module) in LIGHT_PARTS]


def test_every_part_is_in_the_table_and_none_is_a_loose_module() -> None:
    parts = {part_of(module_name(path)) for path in FILES}
    assert parts <= set(MAY_IMPORT)
    assert {path.stem for path in PACKAGE.glob("*.py")} == {"__init__", "__main__", "errors"}


def test_no_file_is_longer_than_400_lines() -> None:
    lengths = {module_name(path): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert not {module: lines for module, lines in lengths.items() if lines > LINES_AT_MOST}


def test_no_file_is_called_utils() -> None:
    assert not {path.stem for path in FILES} & {"utils", "util", "helpers", "misc", "common"}


def test_no_function_hands_keyword_arguments_through() -> None:
    found = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.args.kwarg:
                found.append(f"{module_name(path)}: {node.name}(**{node.args.kwarg.arg})")
    assert not found


def test_every_file_says_what_it_is_for() -> None:
    sources = {module_name(path): path.read_text(encoding="utf-8") for path in FILES}
    assert not [
        m for m, source in sources.items() if source.strip() and not ast.get_docstring(ast.parse(source))
    ]


def test_the_rules_see_relative_late_and_type_only_imports() -> None:
    source = "\n".join([
        "from . import scheduler",
        "from ..errors import PageError",
        "from mlx_chandra import reading",
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
    assert [(item.module, item.when) for item in found] == [
        ("mlx_chandra.engine", "start"),
        ("mlx_chandra.errors", "start"),
        ("mlx_chandra.reading", "start"),
        ("numpy", "types"),
        ("PIL.Image", "start"),
        ("mlx.core", "late"),
    ]


@pytest.mark.parametrize(
    ("module", "imported", "allowed"),
    [
        ("mlx_chandra.reading.run", "mlx_chandra.store.store", True),
        ("mlx_chandra.reading.read", "mlx_chandra.store.store", False),
        ("mlx_chandra.reading.read", "mlx_chandra.engine.service", True),
        ("mlx_chandra.store.store", "mlx_chandra.export.writer", False),
        ("mlx_chandra.export.writer", "mlx_chandra.engine.service", False),
        ("mlx_chandra.store.store", "mlx_chandra.files.disk", True),
        ("mlx_chandra.engine.service", "mlx_chandra.reading.read", False),
        ("mlx_chandra.engine.service", "mlx_chandra.documents.page", False),
        ("mlx_chandra.documents.pdf", "mlx_chandra.processing.image", False),
        ("mlx_chandra.processing.image", "mlx_chandra.models", False),
        ("mlx_chandra.reading.run", "mlx_chandra.cli.ocr", False),
        ("mlx_chandra.cli.ocr", "mlx_chandra.reading.run", True),
    ],
)
def test_the_rules_tell_up_from_down(module: str, imported: str, allowed: bool) -> None:
    assert is_allowed(module, imported) is allowed


@pytest.mark.parametrize(
    ("module", "when", "allowed"),
    [
        ("mlx_chandra.engine.runner", "start", True),
        ("mlx_chandra.engine.scheduler", "late", False),
        ("mlx_chandra.reading.batch", "types", True),
        ("mlx_chandra.reading.batch", "late", False),
        ("mlx_chandra.cli.ocr", "late", False),
    ],
)
def test_the_rules_tell_where_mlx_may_be_imported(module: str, when: str, allowed: bool) -> None:
    assert may_import_mlx(module, when) is allowed
