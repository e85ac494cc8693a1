"""What each option is set to: by the command line, the environment, the file of --config, or its default.

The stronger source wins, in this order. Of two options that exclude each other, the one from the stronger
source holds. Both from one source are wrong usage. A value from the environment or a file becomes arguments
that argparse reads, so an option is declared once, and its type and choices hold wherever it is set.
"""

import argparse
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mlx_chandra.errors import UsageError

LAYERED = ("ocr", "bench")
"""The commands whose options have environment variables. Only ocr has --config too."""
OTHER_VARIABLES = frozenset({"MLX_CHANDRA_OPENBLAS", "MLX_CHANDRA_WIRED"})
"""Variables of the program that set no option."""
DEFAULT = "default"

_PREFIX = "MLX_CHANDRA_"
_PATHS = ("CSV", "DIR", "FILE", "PATH")  # metavars of options that take a path
_COMMA_LISTS = ("LIST", "RANGES")  # metavars of options that take a list with commas
_ON, _OFF = ("1", "true", "yes", "on"), ("0", "false", "no", "off")
_NOT_SET: tuple[object, ...] = (None, False, [])
_TEXTS = 'a list of texts, ["...", "..."]'
_LIST_ALL = "`mlx-chandra ocr --help` lists all options."


@dataclass(frozen=True)
class Setting:
    """An option's value. `origin` is where it comes from, `name` what the option is called there."""

    value: object
    origin: str
    name: str = ""


@dataclass(frozen=True)
class Config:
    """Each option's setting by dest; for options that aren't used, why; the full path of the file, if any."""

    settings: Mapping[str, Setting]
    set_aside: Mapping[str, str]
    file: str | None


def add_to(group: "argparse._ArgumentGroup") -> None:
    """Add --config and --show-config to a command."""
    group.add_argument(
        "--config", metavar="FILE", help="options from a TOML file, such as max-tokens = 4096; others win"
    )
    group.add_argument(
        "--show-config",
        action="store_true",
        help="print all options, their values and where these come from, as such a file, and do nothing else",
    )


def options_of(command: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """All options of a command by their long names without the dashes, in the order of its help."""
    found: dict[str, argparse.Action] = {}
    for action in command._actions:
        if not isinstance(action, argparse._HelpAction | argparse._VersionAction):
            names = [text[2:] for text in action.option_strings if text.startswith("--")]
            found |= dict.fromkeys(names or [action.dest], action)
    return found


def variable_of(name: str) -> str:
    """The environment variable of an option: `MLX_CHANDRA_MAX_TOKENS` for `max-tokens`."""
    return _PREFIX + name.upper().replace("-", "_")


def is_path(action: argparse.Action, text: str) -> bool:
    """Whether the text is a path on the disk. A model is one where it begins with `.`, `~` or `/`."""
    is_folder = action.dest == "model" and text.startswith((".", "~", "/"))
    return text != "-" and (action.metavar in _PATHS or is_folder)


def check_variables(commands: Iterable[argparse.ArgumentParser], environment: Mapping[str, str]) -> None:
    """Raise UsageError for a variable with our prefix that no option of any command has."""
    ours = {variable_of(name) for command in commands for name in options_of(command)}
    for variable in sorted(environment):
        if variable.startswith(_PREFIX) and variable not in ours | OTHER_VARIABLES:
            raise UsageError(
                f"The environment variable {variable} stands for no option.",
                f"{_did_you_mean(variable, ours)}Take it away, or correct its name. {_LIST_ALL}",
            )


def resolve(
    program: argparse.ArgumentParser,
    command: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    environment: Mapping[str, str],
    apart: Iterable[Sequence[str]] = (),
) -> Config:
    """Put the sources together. `program` has parsed `argv` for `command` before, without an error.

    `apart` holds dests of which only one may be set, besides argparse's exclusive groups. Raises UsageError
    for an unknown option, a wrong value, or two options of one source that exclude each other.
    """
    options = options_of(command)
    groups = [*apart, *([a.dest for a in g._group_actions] for g in command._mutually_exclusive_groups)]
    defaults = {action.dest: Setting(action.default, DEFAULT) for action in options.values()}
    for action in command._actions:
        action.default = argparse.SUPPRESS  # so what is there when it is parsed again was given
    given = vars(program.parse_args(argv))
    texts = {name: environment.get(variable_of(name)) for name in options}
    variables = {variable_of(name): (name, text) for name, text in texts.items() if text}
    layers = [
        {dest: Setting(given[dest], "command line") for dest in defaults if dest in given},
        _layer(command, groups, "The environment", "", variables),
    ]
    path = next((str(layer["config"].value) for layer in layers if "config" in layer), None)
    if path is not None:
        said = _read(path, list(options))
        layers.append(_layer(command, groups, f"The config file {path!r}", path, said))
    settings, set_aside = _merged(layers, groups)
    return Config(defaults | settings, set_aside, path and os.path.abspath(path))


def _read(path: str, options: Sequence[str]) -> dict[str, tuple[str, object]]:
    """The option and the value of each key of a TOML file. Raises UsageError."""
    import tomllib

    try:
        with open(path, "rb") as file:
            content = tomllib.load(file)
    except OSError as error:
        raise UsageError(f"The config file {path!r} can't be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        remedy = 'A line sets one option, such as max-tokens = 4096 or output = "results.csv".'
        raise UsageError(f"The config file {path!r} is no TOML: {error}.", remedy) from error
    for key, value in content.items():
        name = key.replace("_", "-")
        if name not in options or name == "config":
            what = f"The config file {path!r} sets {key!r}, which is no option that a file can set."
            is_table = isinstance(value, dict)
            hint = "Options stand at its top, not in tables such as [ocr]." if is_table else _LIST_ALL
            raise UsageError(what, f"{_did_you_mean(name, options)}{hint}")
    return {key: (key.replace("_", "-"), value) for key, value in content.items()}


def _did_you_mean(word: str, names: Iterable[str]) -> str:
    import difflib

    close = difflib.get_close_matches(word, list(names), n=1)
    return f"Did you mean {close[0]}? " if close else ""


def _layer(
    command: argparse.ArgumentParser,
    groups: Sequence[Sequence[str]],
    source: str,
    file: str,
    said: Mapping[str, tuple[str, object]],
) -> dict[str, Setting]:
    """The settings of a file, or of the environment where `file` is empty. Raises UsageError.

    `said` has the name of the option and its value by the source's own name for it.
    """
    layer: dict[str, Setting] = {}
    options = options_of(command)
    command.exit_on_error = False
    for key, (name, set_to) in said.items():
        action = options[name]
        where = f"{source}, {key}" if file else f"The environment variable {key}"
        try:
            value: object = _from_toml(action, set_to, file) if file else _from_variable(action, str(set_to))
            if isinstance(value, list):
                words = [f"--{name}={text}" for text in value] if action.option_strings else ["--", *value]
                value = vars(command.parse_args(words)).get(action.dest)
        except (ValueError, argparse.ArgumentError) as error:
            raise UsageError(f"{where}: {getattr(error, 'message', error)}.", _LIST_ALL) from error
        other = layer.setdefault(action.dest, Setting(value, file or key, key))
        if other.value != value:
            raise UsageError(f"{where}: {other.name} says the opposite.", _LIST_ALL)
    for group in groups:
        names = [layer[d].name for d in dict.fromkeys(group) if d in layer and layer[d].value not in _NOT_SET]
        if len(names) > 1:
            what = f"{source} sets {' and '.join(names)}, of which only one can hold."
            raise UsageError(what, "Take the others away.")
    return layer


def _is_list(action: argparse.Action) -> bool:
    return action.nargs in ("*", "+") or isinstance(action, argparse._AppendAction)


def _from_variable(action: argparse.Action, text: str) -> bool | list[str]:
    """What a switch is set to, or the texts for argparse. Raises ValueError."""
    if action.nargs != 0:
        return [part for part in text.split(os.pathsep) if part] if _is_list(action) else [text]
    if text.lower() not in _ON + _OFF:
        raise ValueError(f"must be one of {', '.join(_ON + _OFF)}")
    return bool(action.const) is (text.lower() in _ON)


def _from_toml(action: argparse.Action, value: object, file: str) -> bool | list[str]:
    """What a switch is set to, or the texts for argparse, relative paths from the file's folder."""
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise ValueError("must be true or false")
        return bool(action.const) is value
    is_list = _is_list(action)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        takes, texts = is_list or action.metavar in _COMMA_LISTS, value if is_list else [",".join(value)]
    else:
        takes = not is_list and (isinstance(value, str) or (type(value) is int and action.type is not None))
        texts = [str(value)]
    if not takes:
        must_be = "a whole number" if action.type else "a text in quotes"
        raise ValueError(f"must be {_TEXTS if is_list else must_be}")
    folder = os.path.dirname(os.path.abspath(file))
    return [_seen_from(folder, text, is_list) if is_path(action, text) else text for text in texts]


def _seen_from(folder: str, text: str, may_be_pattern: bool) -> str:
    import glob

    path = os.path.join(folder, os.path.expanduser(text))
    if may_be_pattern and glob.has_magic(text) and not os.path.lexists(path):
        return os.path.join(glob.escape(folder), os.path.expanduser(text))
    return path


def _merged(
    layers: Iterable[Mapping[str, Setting]], groups: Sequence[Sequence[str]]
) -> tuple[dict[str, Setting], dict[str, str]]:
    """The layers on top of each other, the strongest first, and what a stronger rival sets aside."""
    settings: dict[str, Setting] = {}
    set_aside: dict[str, str] = {}
    for layer in layers:
        stronger = {dest: held.origin for dest, held in settings.items() if held.value not in _NOT_SET}
        for dest, setting in layer.items():
            rivals = [other for group in groups if dest in group for other in group if other != dest]
            rival = next((other for other in rivals if other in stronger), None)
            if rival is not None and setting.value not in _NOT_SET and dest not in settings:
                winner = f"{rival.replace('_', '-')} ({stronger[rival]})"
                set_aside[dest] = f"set aside: {setting.origin} sets it, {winner} is stronger"
            else:
                settings.setdefault(dest, setting)
    return settings, set_aside
