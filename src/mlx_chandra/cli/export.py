"""`mlx-chandra export`: make documents' files from stored results, at any time and without a model."""

import argparse
import contextlib
import fnmatch
import logging
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from mlx_chandra.cli import documents, inputs
from mlx_chandra.cli.texts import counted, printable
from mlx_chandra.errors import ExitCode, OutputError, UsageError

if TYPE_CHECKING:
    from mlx_chandra.cli.options import Commands
    from mlx_chandra.documents.page import Document
    from mlx_chandra.export.document import Exported
    from mlx_chandra.export.writer import Exports
    from mlx_chandra.store.store import Store


def add_to(commands: "Commands") -> None:
    """Add the command to the program's."""
    parser = commands.add_parser(
        "export",
        help="make HTML, Markdown, JSON, text or Parquet of the results in a CSV",
        description="Make each document's files from the results of `mlx-chandra ocr`, without a model. "
        "Documents whose files are up to date are passed over.",
        epilog="Exit status: 0 when all files are there, 1 when some can't be written, 2 for wrong usage, "
        "130 after Ctrl-C.",
    )
    parser.add_argument("results", metavar="CSV", help="a file that `mlx-chandra ocr` wrote")
    documents.add_to(parser)
    which = parser.add_argument_group("which documents, and how their pages are opened for figures")
    which.add_argument(
        "--only", metavar="PATTERN", help="only those whose path or file name matches, such as 'report*.pdf'"
    )
    inputs.add_opening(which, "open no page that would have more pixels (default: 178,956,970)")
    verbose = "name each document, and say what its pages lack"
    parser.add_argument("--verbose", "-v", action="store_true", help=verbose)


def run(arguments: argparse.Namespace) -> int:
    """Export what the options say; return the exit status. Raises MlxChandraError."""
    if arguments.output_dir is None:
        raise UsageError("Where the documents' files go was not said.", "Name a folder: --output-dir DIR.")
    if not os.path.isfile(arguments.results):
        raise UsageError(f"There is no results file {arguments.results!r}.", "Check the path.")
    from mlx_chandra.documents.image_files import MAX_PIXELS
    from mlx_chandra.documents.opened import OpenDocuments
    from mlx_chandra.documents.pages import Reading
    from mlx_chandra.export.writer import Exports

    quiet_libraries()
    settings = documents.settings_of(arguments)
    assert settings is not None  # --output-dir is given
    reading = Reading(password=arguments.password, max_pixels=arguments.max_pixels or MAX_PIXELS)
    with contextlib.closing(OpenDocuments(reading)) as opened, _results(arguments.results) as store:
        chosen = list(_chosen(store.documents(), arguments.only))
        with contextlib.closing(Exports(settings, store.document, opened.page)) as exports:
            for document in _with_progress(chosen, arguments.verbose):
                _say(document.path, exports.export(document), exports, arguments.verbose)
            exports.count_missing()
    print(f"{_summary(exports)}. Documents: {printable(settings.folder)}", flush=True)
    return ExitCode.FAILED if exports.failed else ExitCode.OK


def quiet_libraries() -> None:
    """Hide what libraries say of a page: its row or its problems say it."""
    warnings.filterwarnings("ignore", module=r"(PIL|bs4|chandra|markdownify)\b")
    logging.getLogger("pypdfium2").setLevel(logging.ERROR)


def _results(path: str) -> "Store":
    """Return the stored results beside the CSV, or those of the CSV alone; nothing is written."""
    from mlx_chandra.documents.page import ReadSettings
    from mlx_chandra.store.store import Start, Store

    store = Store.preview(path, ReadSettings(), Start.RESUME, None, True)
    for warning in store.warnings:
        print(f"Warning: {printable(warning)}", file=sys.stderr)
    return store


def _chosen(paths: Iterable[str], pattern: str | None) -> "Iterator[Document]":
    from mlx_chandra.documents.names import FolderStems
    from mlx_chandra.documents.page import Document

    stems = FolderStems()
    for path in paths:
        names = (path, os.path.basename(path))
        if pattern is None or any(fnmatch.fnmatchcase(name, pattern) for name in names):
            yield Document(path, "", stems.of(path))


def _with_progress(chosen: "list[Document]", verbose: bool) -> "Iterable[Document]":
    if verbose or not sys.stderr.isatty():
        return chosen
    from tqdm import tqdm

    return tqdm(chosen, unit=" documents", file=sys.stderr, leave=False, delay=1)


def _say(path: str, found: "Exported | OutputError | None", exports: "Exports", verbose: bool) -> None:
    """Print what became of a document; without --verbose the first failure alone."""
    if found is None:
        lines = [f"current  {printable(path)}"]
    elif isinstance(found, OutputError):
        lines = [f"failed   {printable(path)}: {printable(str(found))}"]
    else:
        lines = [f"written  {printable(path)} -> {printable(found.name)}"]
        lines += [f"         {printable(problem)}" for problem in found.problems]
    if verbose:
        print("\n".join(lines), flush=True)
    elif isinstance(found, OutputError) and exports.failed == 1:  # the others are counted
        print("\n".join(lines), file=sys.stderr)


def _summary(exports: "Exports") -> str:
    said = f"{counted(exports.written, 'document')} written, {exports.current:,} current"
    said += f", {exports.failed:,} failed"
    if exports.plain:
        first = printable(exports.plain[0]) + ", ..." * (len(exports.plain) > 1)
        said += f"; {counted(len(exports.plain), 'page')} written as plain text ({first})"
    return said
