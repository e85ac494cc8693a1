"""Writes docs/options.md: every option of every command with its variable and default, off the parsers.

`make options` runs it after an option was added; a test compares the page with what this would write.
"""

import argparse
import re
from pathlib import Path

from mlx_chandra.cli.config import LAYERED, options_of, variable_of
from mlx_chandra.cli.main import parsers

PAGE = Path(__file__).parent.parent / "docs" / "options.md"

_HEAD = """\
# All options

Made by `make options` from what the program itself says; [command-line.md](command-line.md) explains each of
them. What an environment variable may say, and how the same options stand in the file that `--config` names,
is explained [there](command-line.md#options-from-a-file-and-from-the-environment). In a file, an option is
called as here, without the dashes.
"""
_SAID_DEFAULT = re.compile(r" ?\((default(?:: (.+))?)\)$")


def page() -> str:
    """The whole page."""
    _, commands = parsers()
    return "\n".join([_HEAD, *(_section(name, parser) for name, parser in commands.choices.items())])


def _section(name: str, parser: argparse.ArgumentParser) -> str:
    has_variables = name in LAYERED
    rows = [("option", "environment variable", "default", "what it does")]
    first_names = {action: name for name, action in reversed(options_of(parser).items())}
    for action in parser._actions:
        if action in first_names:
            text = (action.help or "") % {"default": action.default, "prog": "mlx-chandra"}
            cells = (_names(action), f"`{variable_of(first_names[action])}`", _default(action, text))
            rows.append((*cells, _SAID_DEFAULT.sub("", text)))
    lines = [_row(cells if has_variables else cells[:1] + cells[2:]) for cells in rows]
    lines.insert(1, "|---" * (4 if has_variables else 3) + "|")
    return "\n".join([f"## `mlx-chandra {name}`", "", *lines, ""])


def _names(action: argparse.Action) -> str:
    """All names of an option, and what its value is called."""
    if not action.option_strings:
        return f"`{action.metavar or action.dest}`"
    names = ", ".join(f"`{name}`" for name in action.option_strings)
    if action.nargs == 0:
        return names
    choices = f"{{{','.join(map(str, action.choices))}}}" if action.choices else action.metavar
    return f"{names} `{choices or action.dest.upper()}`"


def _default(action: argparse.Action, text: str) -> str:
    said = _SAID_DEFAULT.search(text)
    if said is not None:
        return said[2] or "on"
    if action.nargs == 0:
        return "off"
    return "" if action.default in (None, []) else str(action.default)


def _row(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(re.sub(r"([|*])", r"\\\1", cell) for cell in cells) + " |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
