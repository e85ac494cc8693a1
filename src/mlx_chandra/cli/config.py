"""Where an option's value comes from: the command line, the environment, a file, or else its default.

The stronger source wins, in this order. Where two options exclude each other, the one from the stronger
source holds and the other one is set aside; from one and the same source, they are wrong usage.
"""

import argparse
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mlx_chandra.cli.options import PREFIX, Option, Value, options_of
from mlx_chandra.errors import UsageError

LAYERED = ("ocr", "bench")
"""The commands that hear environment variables; only ocr takes a file, too."""
COMMAND_LINE, DEFAULT = "command line", "default"
OTHER_VARIABLES = frozenset({"MLX_CHANDRA_OPENBLAS", "MLX_CHANDRA_CACHE"})
"""Variables of the program that stand for no option."""

_UNSET: tuple[Value, ...] = (None, False, [])
_LIST_ALL = "`mlx-chandra ocr --help` lists all options."


@dataclass(frozen=True)
class Layer:
    """What one source says. `origin` is how the source is called, `values` are by dest."""

    origin: str
    values: Mapping[str, tuple[Option, Value]]


@dataclass(frozen=True)
class Setting:
    """What holds for one option, and where that comes from."""

    value: Value
    origin: str


@dataclass(frozen=True)
class SetAside:
    """An option that a source sets, and the stronger option that makes it void."""

    option: Option
    origin: str
    stronger: str
    stronger_origin: str


@dataclass(frozen=True)
class Config:
    """What holds, by dest. `file` is the full path of the file, None where there is none."""

    settings: Mapping[str, Setting]
    set_aside: Sequence[SetAside]
    file: str | None

    def into(self, arguments: argparse.Namespace) -> argparse.Namespace:
        """The same arguments with what holds."""
        held = {dest: setting.value for dest, setting in self.settings.items()}
        return argparse.Namespace(**vars(arguments) | held)


def add_to(group: "argparse._ArgumentGroup") -> None:
    """Adds the options to a command."""
    group.add_argument(
        "--config", metavar="FILE", help="options from a TOML file, such as max-tokens = 4096; others win"
    )
    group.add_argument(
        "--show-config",
        action="store_true",
        help="print all options, their values and where these come from, as such a file, and do nothing else",
    )


def resolve(
    program: argparse.ArgumentParser,
    command: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    environment: Mapping[str, str],
    apart: Iterable[Sequence[str]] = (),
) -> Config:
    """What holds of all that is said.

    Args:
        program: Has taken `argv` before, so it is known to be right. Its parsers are used up: they have no
            defaults any more.
        command: The part of the program that the arguments are for.
        argv: As for `program`.
        environment: All variables; those that begin with MLX_CHANDRA_ count.
        apart: Dests of which only one may be set, besides those that argparse knows of.

    Raises:
        UsageError: A source says what it can't say; it is named, and so is what is wrong.
    """
    options = options_of(command)
    defaults = {option.dest: command.get_default(option.dest) for option in options.values()}
    exclusive = [*_groups(command), *apart]
    layers = [_given(program, command, argv, options), _environment(options, environment)]
    chosen = next((layer.values["config"] for layer in layers if "config" in layer.values), None)
    file = None if chosen is None else os.path.abspath(str(chosen[1]))
    if file is not None:
        layers.append(_file(options, str(chosen[1]) if chosen else "", file))
    for layer in layers[1:]:
        _check(layer, exclusive)
    settings, aside = _merged(layers, exclusive)
    held = {dest: settings.get(dest, Setting(value, DEFAULT)) for dest, value in defaults.items()}
    return Config(held, aside, file)


def check_variables(commands: Iterable[argparse.ArgumentParser], environment: Mapping[str, str]) -> None:
    """Raises UsageError for a variable that looks like ours and stands for no option of any command."""
    known = {option.variable for command in commands for option in options_of(command).values()}
    for variable in sorted(environment):
        if variable.startswith(PREFIX) and variable not in known | OTHER_VARIABLES:
            raise UsageError(
                f"The environment variable {variable} stands for no option.",
                f"{_meant(variable, known)}Take it away, or correct its name. {_LIST_ALL}",
            )


def _groups(command: argparse.ArgumentParser) -> list[Sequence[str]]:
    groups = [
        tuple(dict.fromkeys(action.dest for action in group._group_actions))
        for group in command._mutually_exclusive_groups
    ]
    return [group for group in groups if len(group) > 1]


def _given(
    program: argparse.ArgumentParser,
    command: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    options: Mapping[str, Option],
) -> Layer:
    """What the command line says: parsed once more, without defaults, only what was given is there."""
    for action in command._actions:
        action.default = argparse.SUPPRESS
    given = vars(program.parse_args(argv))
    named = {option.dest: option for option in options.values() if option.is_first}
    return Layer(COMMAND_LINE, {dest: (named[dest], given[dest]) for dest in named if dest in given})


def _environment(options: Mapping[str, Option], environment: Mapping[str, str]) -> Layer:
    values: dict[str, tuple[Option, Value]] = {}
    for option in options.values():
        text = environment.get(option.variable)
        if not text:  # an empty variable is how many scripts say that there is none
            continue
        try:
            _put(values, option, option.from_text(text))
        except ValueError as error:
            raise UsageError(f"The environment variable {option.variable}: {error}.", _LIST_ALL) from error
    return Layer("environment", values)


def _file(options: Mapping[str, Option], path: str, full_path: str) -> Layer:
    """What the file at `path`, as it was named, says."""
    import tomllib

    try:
        with open(full_path, "rb") as file:
            content = tomllib.load(file)
    except OSError as error:
        raise UsageError(f"The config file {path!r} can't be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        remedy = 'A line sets one option, such as max-tokens = 4096 or output = "results.csv".'
        raise UsageError(f"The config file {path!r} is no TOML: {error}.", remedy) from error
    values: dict[str, tuple[Option, Value]] = {}
    for key, value in content.items():
        option = options.get(key.replace("_", "-"))
        if option is None or option.name == "config":
            raise _unknown_key(key, value, path, [name for name in options if name != "config"])
        try:
            _put(values, option, option.from_toml(value, os.path.dirname(full_path)))
        except ValueError as error:
            raise UsageError(f"The config file {path!r}, {key}: {error}.", _LIST_ALL) from error
    return Layer(path, values)


def _unknown_key(key: str, value: object, path: str, known: Sequence[str]) -> UsageError:
    message = f"The config file {path!r} sets {key!r}, which is no option that a file can set."
    if isinstance(value, dict):
        return UsageError(message, "Options stand at its top, not in tables such as [ocr].")
    return UsageError(message, f"{_meant(key.replace('_', '-'), known)}{_LIST_ALL}")


def _meant(word: str, known: Iterable[str]) -> str:
    """Did you mean ...? Empty where nothing is like it."""
    import difflib

    close = difflib.get_close_matches(word, list(known), n=1)
    return f"Did you mean {close[0]}? " if close else ""


def _put(values: dict[str, tuple[Option, Value]], option: Option, value: Value) -> None:
    other = values.get(option.dest)
    if other is not None and other[1] != value:
        raise ValueError(f"{other[0].name} says the opposite")
    values[option.dest] = (option, value)


def _check(layer: Layer, exclusive: Iterable[Sequence[str]]) -> None:
    """Raises UsageError where one source sets two options that exclude each other."""
    for group in exclusive:
        names = [layer.values[dest][0] for dest in group if _is_set(layer.values.get(dest))]
        if len(names) > 1:
            both = " and ".join(o.variable if layer.origin == "environment" else o.name for o in names)
            where = (
                "The environment" if layer.origin == "environment" else f"The config file {layer.origin!r}"
            )
            raise UsageError(f"{where} sets {both}, of which only one can hold.", "Take the others away.")


def _is_set(item: tuple[Option, Value] | None) -> bool:
    return item is not None and item[1] not in _UNSET


def _merged(
    layers: Iterable[Layer], exclusive: Sequence[Sequence[str]]
) -> tuple[dict[str, Setting], list[SetAside]]:
    """What the layers say together, the strongest first."""
    settings: dict[str, Setting] = {}
    aside: list[SetAside] = []
    for layer in layers:
        new: dict[str, Setting] = {}
        for dest, (option, value) in layer.values.items():
            rivals = [other for group in exclusive if dest in group for other in group if other != dest]
            rival = next((o for o in rivals if o in settings and settings[o].value not in _UNSET), None)
            if dest in settings:
                continue
            if rival is not None and value not in _UNSET:
                aside.append(SetAside(option, _origin(layer, option), rival, settings[rival].origin))
            else:
                new[dest] = Setting(value, _origin(layer, option))
        settings |= new
    return settings, aside


def _origin(layer: Layer, option: Option) -> str:
    return option.variable if layer.origin == "environment" else layer.origin
