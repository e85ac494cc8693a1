"""What `--show-config` prints: every option, its value and where that comes from, as a file for --config."""

import argparse
import json
import os
import re

from mlx_chandra import __version__
from mlx_chandra.cli.config import DEFAULT, Config, is_path, options_of
from mlx_chandra.cli.texts import printable

_NOT_SHOWN = ("config", "show_config")  # they are about this file itself


def config_lines(command: argparse.ArgumentParser, config: Config) -> list[str]:
    """The lines of the file, grouped as the command's help is. A password is said to be set, never shown."""
    lines = [
        f"# The options of `mlx-chandra ocr`, {__version__}, and where each comes from.",
        f"# Config file: {printable(config.file or 'none')}",
    ]
    names = {action.dest: name for name, action in reversed(options_of(command).items())}
    for group in command._action_groups:
        actions = {action.dest: action for action in reversed(group._group_actions) if action.dest in names}
        shown = [_line(names[d], actions[d], config) for d in reversed(actions.keys()) if d not in _NOT_SHOWN]
        lines += ["", f"# {group.title}", *shown] if shown else []
    return lines


def _line(name: str, action: argparse.Action, config: Config) -> str:
    """The option as TOML; as a comment where it is a default, not set, secret, or can't be written."""
    value, origin = config.settings[action.dest].value, config.settings[action.dest].origin
    is_comment = origin == DEFAULT
    if value is None or value == []:
        default = re.search(r"\(default: (.+)\)", action.help or "")
        written, is_comment, origin = "", True, f"{origin}: {default[1] if default else 'not set'}"
    elif action.dest == "password":
        written, is_comment, origin = '"..."', True, f"{origin}; not shown"
    else:
        written = _toml(action, value)
        if any("\ud800" <= character <= "\udfff" for character in written):
            written, is_comment, origin = "", True, f"{origin}; it isn't UTF-8, so it can't stand in a file"
    line = f"{'# ' if is_comment else ''}{name} = {written}".rstrip()
    return f"{line}  # {printable(config.set_aside.get(action.dest, origin))}"


def _toml(action: argparse.Action, value: object) -> str:
    """The value, with full paths, because relative ones in a file are meant from the file's folder."""
    if isinstance(value, list):
        return f"[{', '.join(_toml(action, item) for item in value)}]"
    if isinstance(value, str) and is_path(action, value):
        value = os.path.abspath(os.path.expanduser(value))
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # JSON's words are TOML's
