"""What `--show-config` prints: every option, its value and where that comes from, as a file for --config."""

import argparse
import json
import os
import re

from mlx_chandra import __version__
from mlx_chandra.cli.config import DEFAULT, Config, is_path, options_of

_NOT_SHOWN = ("config", "show_config")  # they are about this file itself
_DEFAULT_IN_HELP = re.compile(r"\(default: (.+)\)")


def config_lines(command: argparse.ArgumentParser, config: Config) -> list[str]:
    """The lines of the file, grouped as the command's help is. A password is said to be set, never shown."""
    lines = [
        f"# The options of `mlx-chandra ocr`, {__version__}, and where each comes from.",
        f"# Config file: {_printable(config.file or 'none')}",
    ]
    names = {action.dest: name for name, action in reversed(options_of(command).items())}
    for group in command._action_groups:
        dests = dict.fromkeys(action.dest for action in group._group_actions if action.dest in names)
        shown = [_line(names[d], group, config, d) for d in dests if d not in _NOT_SHOWN]
        lines += ["", f"# {group.title}", *shown] if shown else []
    return lines


def _line(name: str, group: "argparse._ArgumentGroup", config: Config, dest: str) -> str:
    """The option as TOML; as a comment where it is a default, not set, secret, or can't be written."""
    action = next(action for action in group._group_actions if action.dest == dest)
    value, origin = config.settings[dest].value, config.settings[dest].origin
    written = "" if value is None or value == [] else _toml(_absolute(action, value))
    is_comment = not written or dest == "password" or origin == DEFAULT
    if not written:
        default = _DEFAULT_IN_HELP.search(action.help or "")
        origin += f": {default[1]}" if default else ": not set"
    elif dest == "password":
        written, origin = '"..."', f"{origin}; not shown"
    elif any("\ud800" <= character <= "\udfff" for character in written):
        written, is_comment, origin = "", True, f"{origin}; it isn't UTF-8, so it can't stand in a file"
    line = f"{'# ' if is_comment else ''}{name} = {written}".rstrip()
    return f"{line}  # {_printable(config.set_aside.get(dest, origin))}"


def _absolute(action: argparse.Action, value: object) -> object:
    """Full paths, because relative ones in a file are meant from the file's folder."""
    if isinstance(value, list):
        return [_absolute(action, item) for item in value]
    if isinstance(value, str) and is_path(action, value):
        return os.path.abspath(os.path.expanduser(value))
    return value


def _toml(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, bool | str):  # JSON's words for these are TOML's
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value)


def _printable(text: str) -> str:
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    return shown.encode("utf-8", "backslashreplace").decode("utf-8")
