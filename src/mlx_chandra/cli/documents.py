"""The options that say which files each document gets, for `ocr` and `export`."""

import argparse
import os
from typing import TYPE_CHECKING

from mlx_chandra.errors import UsageError

if TYPE_CHECKING:
    from mlx_chandra.export.settings import ExportSettings, Format

_DEFAULT_FORMATS = "html,markdown"


def add_to(parser: argparse.ArgumentParser) -> None:
    """Add the options to a command. Those that weren't given are None."""
    documents = parser.add_argument_group("documents' files, beside the CSV")
    documents.add_argument("--output-dir", metavar="DIR", help="give each document a folder of files in DIR")
    documents.add_argument(
        "--format",
        metavar="LIST",
        help=f"any of html, markdown, json, text and parquet, with commas (default: {_DEFAULT_FORMATS})",
    )
    headers = documents.add_mutually_exclusive_group()
    both = ("headers", "include-headers-footers")
    _add_switch(headers, "headers", True, "with page headers and footers", *both)
    _add_switch(headers, "headers", False, "without them (default)", "no-headers", "no-headers-footers")
    pictures = documents.add_mutually_exclusive_group()
    _add_switch(pictures, "pictures", True, "with figures, cut out of the pages (default)", "include-images")
    _add_switch(pictures, "pictures", False, "without them", "no-images")
    _add_switch(documents, "paginate", True, "mark in HTML and Markdown where pages begin", "paginate")


def _add_switch(group: "argparse._ArgumentGroup", dest: str, value: bool, help: str, *names: str) -> None:
    flags = [f"--{name}" for name in names]
    group.add_argument(*flags, dest=dest, action="store_const", const=value, help=help)


def settings_of(arguments: argparse.Namespace) -> "ExportSettings | None":
    """Return what documents are made into; None without --output-dir.

    Raises:
        UsageError: The options make no sense.
        MlxChandraError: A package that makes the files isn't installed, or pyarrow isn't for Parquet.
    """
    if arguments.output_dir is None:
        _check_alone(arguments)
        return None
    from mlx_chandra.export.settings import Choices, ExportSettings

    formats = frozenset(map(_format, (arguments.format or _DEFAULT_FORMATS).split(",")))
    choices = Choices(headers=bool(arguments.headers), pictures=arguments.pictures is not False)
    folder = os.path.abspath(arguments.output_dir)
    settings = ExportSettings(folder, formats, choices, bool(arguments.paginate))
    settings.check_packages()  # what is missing is said before a night's reading
    return settings


def _check_alone(arguments: argparse.Namespace) -> None:
    given = {
        "--format": arguments.format,
        "--headers and --no-headers": arguments.headers,
        "--include-images and --no-images": arguments.pictures,
        "--paginate": arguments.paginate,
    }
    for name, value in given.items():
        if value is not None:
            raise UsageError(
                f"{name} is about the files of documents, and none are written.",
                "Say where they go: --output-dir DIR.",
            )


def _format(word: str) -> "Format":
    from mlx_chandra.export.settings import Format

    try:
        return Format(word.strip().lower())
    except ValueError as error:
        words = ", ".join(Format)
        raise UsageError(f"{word.strip()!r} is no format.", f"--format takes {words}.") from error
