"""The command `mlx-chandra`: finds the command that is meant, and shows every error in one way.

Nothing heavy is imported before a command has work to do, so that --help answers at once.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mlx_chandra import __version__
from mlx_chandra.cli import bench, ocr, show, status
from mlx_chandra.errors import MlxChandraError

if TYPE_CHECKING:
    from mlx_chandra.cli.reader import ReaderFactory

INTERRUPTED = 130  # what shells give a program that Ctrl-C ended


def main(argv: Sequence[str] | None = None, reader_factory: "ReaderFactory | None" = None) -> int:
    """Runs the program and returns its exit status.

    Args:
        argv: Arguments without the program's name; the process's own by default.
        reader_factory: Gives another reader than the engine; for tests.
    """
    try:
        arguments = _parser().parse_args(argv)
        if arguments.command == "show":
            return show.run(arguments)
        if arguments.command == "status":
            return status.run(arguments)
        if arguments.command == "bench":
            return bench.run(arguments)
        return ocr.run(arguments, reader_factory)
    except SystemExit as ending:  # argparse has said what there is to say
        return ending.code if isinstance(ending.code, int) else 2
    except MlxChandraError as error:
        _say(error)
        return error.exit_code
    except KeyboardInterrupt:
        print("\nmlx-chandra: stopped.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _say(error: MlxChandraError) -> None:
    print(f"mlx-chandra: {_printable(error.message)}", file=sys.stderr)
    if error.remedy:
        print(f"  {_printable(error.remedy)}", file=sys.stderr)


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mlx-chandra",
        description="Read large collections of page images with the Chandra OCR models on MLX.",
        epilog="`mlx-chandra COMMAND --help` says more about a command.",
    )
    parser.add_argument("--version", action="version", version=f"mlx-chandra {__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    ocr.add_to(commands)
    show.add_to(commands)
    status.add_to(commands)
    bench.add_to(commands)
    return parser
