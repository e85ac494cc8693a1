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
from mlx_chandra.errors import ExitCode, MlxChandraError

if TYPE_CHECKING:
    from mlx_chandra.cli.model import ServiceFactory
    from mlx_chandra.cli.options import Commands


def main(argv: Sequence[str] | None = None, service_factory: "ServiceFactory | None" = None) -> int:
    """Run the program and return its exit status.

    Args:
        argv: Arguments without the program's name; the process's own by default.
        service_factory: Gives another service than the engine's; for tests.
    """
    try:
        return _run(argv, service_factory)
    except SystemExit as ending:  # argparse has printed what was wrong
        return ending.code if isinstance(ending.code, int) else ExitCode.USAGE
    except MlxChandraError as error:
        said = f"mlx-chandra: {error.message}" + (f"\n  {error.remedy}" if error.remedy else "")
        print(said.encode("utf-8", "backslashreplace").decode("utf-8"), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("\nmlx-chandra: stopped.", file=sys.stderr)
        return ExitCode.INTERRUPTED
    except BrokenPipeError:  # the reader of our output, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK


def _run(argv: Sequence[str] | None, service_factory: "ServiceFactory | None") -> int:
    parser, commands = parsers()
    arguments = parser.parse_args(argv)
    plain = {"show": show.run, "status": status.run, "export": export.run}
    if arguments.command in plain:
        return plain[arguments.command](arguments)
    config.check_variables([commands.choices[name] for name in config.LAYERED], os.environ)
    command = commands.choices[arguments.command]
    apart = ocr.APART if arguments.command == "ocr" else ()
    resolved = config.resolve(parser, command, argv, os.environ, apart)
    vars(arguments).update({dest: setting.value for dest, setting in resolved.settings.items()})
    if arguments.command == "bench":
        return bench.run(arguments)
    if not arguments.show_config:
        return ocr.run(arguments, service_factory)
    from mlx_chandra.cli.show_config import config_lines

    print("\n".join(config_lines(command, resolved)))
    return ExitCode.OK


def parsers() -> "tuple[argparse.ArgumentParser, Commands]":
    """The program's parser, and those of its commands."""
    parser = argparse.ArgumentParser(
        prog="mlx-chandra",
        description="Read large collections of page images with the Chandra OCR models on MLX.",
        epilog="`mlx-chandra COMMAND --help` says more about a command.",
    )
    parser.add_argument("--version", action="version", version=f"mlx-chandra {__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    for command in (ocr, show, status, export, bench):
        command.add_to(commands)
    return parser, commands
