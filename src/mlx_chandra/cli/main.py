"""The command `mlx-chandra`: finds the command that is meant, and shows every error in one way.

Nothing heavy is imported before a command has work to do, so that --help answers at once.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mlx_chandra import __version__
from mlx_chandra.cli import bench, config, export, ocr, show, status
from mlx_chandra.cli.stopping import INTERRUPTED
from mlx_chandra.errors import MlxChandraError

if TYPE_CHECKING:
    from mlx_chandra.cli.reader import ReaderFactory

Commands = argparse._SubParsersAction  # argparse has no public name for it


def main(argv: Sequence[str] | None = None, reader_factory: "ReaderFactory | None" = None) -> int:
    """Runs the program and returns its exit status.

    Args:
        argv: Arguments without the program's name; the process's own by default.
        reader_factory: Gives another reader than the engine; for tests.
    """
    try:
        parser, commands = parsers()
        arguments = parser.parse_args(argv)
        if arguments.command == "show":
            return show.run(arguments)
        if arguments.command == "status":
            return status.run(arguments)
        if arguments.command == "export":
            return export.run(arguments)
        config.check_variables([commands.choices[name] for name in config.LAYERED], os.environ)
        command = commands.choices[arguments.command]
        apart = ocr.APART if arguments.command == "ocr" else ()
        held = config.resolve(parser, command, argv, os.environ, apart)
        arguments = held.into(arguments)
        if arguments.command == "bench":
            return bench.run(arguments)
        if arguments.show_config:
            return _show_config(command, held)
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


def _show_config(command: argparse.ArgumentParser, held: config.Config) -> int:
    from mlx_chandra.cli.show_config import config_lines

    for line in config_lines(command, held):
        print(line)
    return 0


def _say(error: MlxChandraError) -> None:
    print(f"mlx-chandra: {_printable(error.message)}", file=sys.stderr)
    if error.remedy:
        print(f"  {_printable(error.remedy)}", file=sys.stderr)


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def parsers() -> "tuple[argparse.ArgumentParser, Commands[argparse.ArgumentParser]]":
    """The program's parser, and those of its commands."""
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
    export.add_to(commands)
    bench.add_to(commands)
    return parser, commands
