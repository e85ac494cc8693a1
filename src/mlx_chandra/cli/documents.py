"""The options that say which files each document gets, and what they lead to."""

import argparse
import os
from typing import TYPE_CHECKING

from mlx_chandra.errors import UsageError

if TYPE_CHECKING:
    from mlx_chandra.outputs.document_files import DocumentSettings, Format
    from mlx_chandra.outputs.making import Making

DEFAULT_FORMATS = "html,markdown"


def add_to(parser: argparse.ArgumentParser) -> None:
    """Adds the options to a command. Those that weren't given are None."""
    documents = parser.add_argument_group("documents' files, beside the CSV")
    documents.add_argument("--output-dir", metavar="DIR", help="give each document a folder of files in DIR")
    documents.add_argument(
        "--format",
        metavar="LIST",
        help=f"any of html, markdown, json, text and parquet, with commas (default: {DEFAULT_FORMATS})",
    )
    _add_switch(
        documents,
        "headers",
        ("--headers", "--include-headers-footers"),
        ("--no-headers", "--no-headers-footers"),
        ("with page headers and footers", "without them (default)"),
    )
    _add_switch(
        documents,
        "pictures",
        ("--include-images",),
        ("--no-images",),
        ("with figures, cut out of the pages (default)", "without them"),
    )
    documents.add_argument(
        "--paginate", action="store_const", const=True, help="mark in HTML and Markdown where pages begin"
    )


def _add_switch(
    group: "argparse._ArgumentGroup",
    name: str,
    on: tuple[str, ...],
    off: tuple[str, ...],
    helps: tuple[str, str],
) -> None:
    switch = group.add_mutually_exclusive_group()
    switch.add_argument(*on, dest=name, action="store_const", const=True, help=helps[0])
    switch.add_argument(*off, dest=name, action="store_const", const=False, help=helps[1])


def settings_of(arguments: argparse.Namespace, making: "Making") -> "DocumentSettings | None":
    """What documents are made into; None without --output-dir.

    Raises:
        UsageError: The options make no sense.
        MlxChandraError: A package that makes the files isn't installed, or pyarrow isn't for Parquet.
    """
    if arguments.output_dir is None:
        _check_alone(arguments)
        return None
    from mlx_chandra.outputs.conversion import Choices
    from mlx_chandra.outputs.document_files import DocumentSettings, Format
    from mlx_chandra.outputs.layout import package
    from mlx_chandra.outputs.parquet import check_parquet

    formats = _formats(arguments.format or DEFAULT_FORMATS)
    if Format.PARQUET in formats:
        check_parquet()
    package()  # what is missing is said before a night's reading
    choices = Choices(headers=bool(arguments.headers), pictures=arguments.pictures is not False)
    folder = os.path.abspath(arguments.output_dir)
    return DocumentSettings(folder, formats, choices, bool(arguments.paginate), making)


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


def _formats(text: str) -> "frozenset[Format]":
    from mlx_chandra.outputs.document_files import Format

    found = set()
    for word in text.split(","):
        try:
            found.add(Format(word.strip().lower()))
        except ValueError as error:
            known = ", ".join(Format)
            raise UsageError(f"{word.strip()!r} is no format.", f"--format takes {known}.") from error
    return frozenset(found)
