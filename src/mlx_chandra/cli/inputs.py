"""Adds the options that say what is read, and finds the documents that they name."""

import argparse
import sys
from typing import TYPE_CHECKING

from mlx_chandra.cli.options import add_number
from mlx_chandra.errors import UsageError

if TYPE_CHECKING:
    from mlx_chandra.cli.options import Options
    from mlx_chandra.documents.discover import Folder
    from mlx_chandra.documents.manifest import Manifest
    from mlx_chandra.documents.named import Named
    from mlx_chandra.documents.pages import Reading

    Source = Folder | Manifest | Named

ONE_OF = ("paths", "images_dir", "manifest")
"""The ways to name what is read, of which one is taken."""


def add_to(parser: argparse.ArgumentParser) -> None:
    """Add the options to a command."""
    named = parser.add_argument_group("documents (one of the three)")
    named.add_argument(
        "paths",
        nargs="*",
        default=[],
        metavar="PATH",
        help="a file, a folder, or a pattern such as 'in/**/*.pdf'",
    )
    named.add_argument("--images-dir", metavar="DIR", help="all PDF and image files below DIR")
    named.add_argument(
        "--manifest",
        metavar="FILE",
        help="the files that FILE names, one path a line, or as `find -print0` lists them; a line with # at "
        "its start is a comment, ./#a.png a file; -: standard input",
    )
    pages = parser.add_argument_group("pages")
    pages.add_argument(
        "--pages",
        metavar="RANGES",
        help="of each document: 1-5,7,-2- is 1 to 5, 7 and the last two; write --pages=-2- for these alone",
    )
    add_opening(pages, "refuse pages that would have more pixels (default: 178,956,970)")


def add_opening(options: "Options", max_pixels: str) -> None:
    """Add --password and --max-pixels, with this help."""
    options.add_argument("--password", metavar="TEXT", help="what opens locked PDF files")
    add_number(options, "--max-pixels", 1, None, max_pixels)


def source_of(arguments: argparse.Namespace) -> "Source":
    """Where the documents come from. Raises UsageError unless exactly one way is named and leads to some."""
    from mlx_chandra.documents.discover import Folder
    from mlx_chandra.documents.manifest import Manifest
    from mlx_chandra.documents.named import Named
    from mlx_chandra.documents.names import SUFFIXES

    ways = {"PATH": arguments.paths, "--images-dir": arguments.images_dir, "--manifest": arguments.manifest}
    given = [name for name, value in ways.items() if value not in (None, [])]
    if len(given) != 1:
        what = f"{' and '.join(given)} don't go together." if given else "Nothing to read was named."
        raise UsageError(what, "Name files and folders, or --images-dir DIR, or --manifest FILE.")
    source: Source
    if given == ["--manifest"]:
        path, tree = arguments.manifest, arguments.text_dir is not None
        source = Manifest.from_stream(sys.stdin.buffer, tree) if path == "-" else Manifest.at(path, tree)
        name, remedy = "on standard input" if path == "-" else path, "List one path a line."
        empty = f"The manifest {name} names no pages."
    else:
        named = arguments.images_dir or ", ".join(arguments.paths)
        source = Folder.at(named) if arguments.images_dir is not None else Named.at(arguments.paths)
        empty, remedy = f"There are no documents in {named!r}.", f"Looked for {', '.join(sorted(SUFFIXES))}."
    if next(iter(source), None) is None:
        raise UsageError(empty, remedy)
    return source


def reading_of(arguments: argparse.Namespace) -> "Reading":
    """How documents are read. Raises UsageError for ranges that make no sense."""
    from mlx_chandra.documents.image_files import MAX_PIXELS
    from mlx_chandra.documents.pages import Reading
    from mlx_chandra.documents.selection import PageSelection

    pages = PageSelection() if arguments.pages is None else PageSelection.parse(arguments.pages)
    return Reading(pages, arguments.password, arguments.max_pixels or MAX_PIXELS)
