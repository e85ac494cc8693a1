"""Writes docs/options.md from the parsers: every option of every command with its variable and default.

Run `make options` after an option was added. A test compares the page with what this would write.
"""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

from mlx_chandra.cli.config import LAYERED
from mlx_chandra.cli.main import parsers
from mlx_chandra.cli.options import Option, options_of

PAGE = Path(__file__).parent.parent / "docs" / "options.md"

_HEAD = """\
# All options

Made by `make options` from what the program itself says; [command-line.md](command-line.md) explains each of
them. What an environment variable may say, and how the same options stand in the file that `--config` names,
is explained [there](command-line.md#options-from-a-file-and-from-the-environment). In a file, an option is
called as here, without the dashes.
"""
_DEFAULT_IN_HELP = re.compile(r" ?\((default(?:: (.+))?)\)$")


def page() -> str:
    """Return the whole page."""
    _, commands = parsers()
    sections = [_section(name, parser) for name, parser in commands.choices.items()]
    return "\n".join([_HEAD, *sections])


def _section(name: str, parser: argparse.ArgumentParser) -> str:
    has_variables = name in LAYERED
    lines = [f"## `mlx-chandra {name}`", ""]
    columns = ["option", "environment variable", "default", "what it does"]
    lines += [_row(columns if has_variables else columns[:1] + columns[2:])]
    lines += ["|---" * (4 if has_variables else 3) + "|"]
    for option, names in _by_action(parser):
        cells = [names, f"`{option.variable}`", _default(option), _help(option)]
        lines.append(_row(cells if has_variables else cells[:1] + cells[2:]))
    return "\n".join([*lines, ""])


def _by_action(parser: argparse.ArgumentParser) -> Iterator[tuple[Option, str]]:
    """Return each option with all of its names; the first one gives the variable."""
    every = list(options_of(parser).values())
    for action in dict.fromkeys(option.action for option in every):
        option = next(option for option in every if option.action is action)
        names = ", ".join(f"`{name}`" for name in action.option_strings)
        yield option, f"{names}{_value(action)}" if names else f"`{action.metavar or action.dest}`"


def _value(action: argparse.Action) -> str:
    if action.nargs == 0:
        return ""
    if action.choices is not None:
        return f" `{{{','.join(map(str, action.choices))}}}`"
    return f" `{action.metavar or action.dest.upper()}`"


def _default(option: Option) -> str:
    found = _DEFAULT_IN_HELP.search(_expanded(option.action))
    if found is not None:
        return found[2] or "on"
    if option.is_switch:
        return "off"
    return "" if option.action.default in (None, []) else str(option.action.default)


def _help(option: Option) -> str:
    return _DEFAULT_IN_HELP.sub("", _expanded(option.action))


def _expanded(action: argparse.Action) -> str:
    return (action.help or "") % {"default": action.default, "prog": "mlx-chandra"}


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(re.sub(r"([|*])", r"\\\1", cell) for cell in cells) + " |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
