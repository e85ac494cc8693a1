"""What `--show-config` prints: every option, its value and where that comes from; --config reads it."""

import argparse
import json
import os
import re
from collections.abc import Iterator, Sequence

from mlx_chandra import __version__
from mlx_chandra.cli.config import DEFAULT, Config
from mlx_chandra.cli.options import Option, Value, options_of

_NOT_SHOWN = ("config", "show_config")  # they are about this file itself
_DEFAULT_IN_HELP = re.compile(r"\(default: (.+)\)")


def config_lines(command: argparse.ArgumentParser, config: Config) -> list[str]:
    """The lines of the file, grouped as the command's help is. A password is said to be set, never shown."""
    aside = {item.option.dest: item for item in config.set_aside}
    lines = [
        f"# The options of `mlx-chandra ocr`, {__version__}, and where each comes from.",
        f"# Config file: {_printable(config.file)}" if config.file else "# Config file: none",
    ]
    for title, options in _groups(command):
        lines += ["", f"# {title}"]
        for option in options:
            setting = config.settings[option.dest]
            origin = _origin(option, setting.value, setting.origin)
            if option.dest in aside:
                item = aside[option.dest]
                stronger = f"{item.stronger.replace('_', '-')} ({item.stronger_origin})"
                origin = f"set aside: {item.origin} sets it, {stronger} is stronger"
            line = _line(option, setting.value)
            if setting.origin == DEFAULT:
                line = f"# {line.removeprefix('# ')}"  # a default need not be said, and so excludes nothing
            lines.append(f"{line}  # {_printable(origin)}")
    return lines


def _groups(command: argparse.ArgumentParser) -> Iterator[tuple[str, Sequence[Option]]]:
    every = [option for option in options_of(command).values() if option.is_first]
    for group in command._action_groups:
        options = [o for o in every if o.action in group._group_actions and o.dest not in _NOT_SHOWN]
        if options:
            yield str(group.title), options


def _line(option: Option, value: Value) -> str:
    """The option as TOML; as a comment where it isn't set or can't be written down."""
    if option.is_secret and value is not None:
        return f'# {option.name} = "..."'
    written = None if value is None or value == [] else _toml(_absolute(option, value))
    return f"# {option.name} =" if written is None else f"{option.name} = {written}"


def _origin(option: Option, value: Value, origin: str) -> str:
    if option.is_secret and value is not None:
        return f"{origin}; not shown"
    if value is None or value == []:
        said = _DEFAULT_IN_HELP.search(option.action.help or "")
        return f"{origin}: {said[1]}" if said else f"{origin}: not set"
    if origin != DEFAULT and _toml(value) is None:
        return f"{origin}; it isn't UTF-8, so it can't stand in a file"
    return origin


def _absolute(option: Option, value: Value) -> Value:
    """Places as full paths, for a file is read from its own folder."""
    if isinstance(value, list):
        return [_absolute(option, item) for item in value]
    if not isinstance(value, str) or value == "-":
        return value
    is_folder = option.dest == "model" and value.startswith((".", "~", os.sep))
    return os.path.abspath(os.path.expanduser(value)) if is_folder or option.is_place else value


def _toml(value: Value) -> str | None:
    """The value as TOML writes it; None for text that TOML can't hold."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        items = [_toml(item) for item in value]
        return None if None in items else f"[{', '.join(item or '' for item in items)}]"
    if not isinstance(value, str):
        return str(value)
    if any("\ud800" <= character <= "\udfff" for character in value):
        return None
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _printable(text: str) -> str:
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    return shown.encode("utf-8", "backslashreplace").decode("utf-8")
