"""A command's options as things that can be set elsewhere too: in a file, or in the environment.

All of it is read off the command's argparse parser, so an option is declared once, and one that is added
there can be set here. What a value may be is decided by the same types and choices as on the command line.
"""

import argparse
import os
from collections.abc import Mapping
from dataclasses import dataclass

PREFIX = "MLX_CHANDRA_"

_PLACES = ("CSV", "DIR", "FILE", "PATH")  # the metavars of what stands for a place on the disk
_COMMA_LISTS = ("LIST", "RANGES")  # and of what is a list with commas
_WORDS = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}

Value = object  # what an option is set to: as argparse would give it


@dataclass(frozen=True)
class Option:
    """One name under which something can be set.

    Attributes:
        name: As on the command line, without the dashes: `max-tokens`; `paths` for what has no name.
        action: What argparse does with it.
        is_first: Whether it is the name by which the thing is shown; `no-headers`, say, is another one's.
    """

    name: str
    action: argparse.Action
    is_first: bool

    @property
    def dest(self) -> str:
        return self.action.dest

    @property
    def variable(self) -> str:
        """Its environment variable: `MLX_CHANDRA_MAX_TOKENS`."""
        return PREFIX + self.name.upper().replace("-", "_")

    @property
    def is_switch(self) -> bool:
        return self.action.nargs == 0

    @property
    def is_list(self) -> bool:
        return self.action.nargs in ("*", "+") or isinstance(self.action, argparse._AppendAction)

    @property
    def is_place(self) -> bool:
        return self.action.metavar in _PLACES

    @property
    def is_secret(self) -> bool:
        return self.dest == "password"

    def from_text(self, text: str) -> Value:
        """The value of an environment variable. Raises ValueError saying what it must be."""
        if self.is_switch:
            if text.lower() not in _WORDS:
                raise ValueError(f"must be one of {', '.join(_WORDS)}")
            return self._switched(_WORDS[text.lower()])
        if self.is_list:
            return [self._typed(item) for item in text.split(os.pathsep) if item]
        return self._typed(text)

    def from_toml(self, value: object, folder: str) -> Value:
        """The value of a file's key; relative paths are meant from the file's `folder`. Raises ValueError."""
        if self.is_switch:
            if not isinstance(value, bool):
                raise ValueError("must be true or false")
            return self._switched(value)
        if self.is_list:
            return [self._typed(self._placed(item, folder)) for item in _texts(value)]
        if isinstance(value, list) and self.action.metavar in _COMMA_LISTS:
            value = ",".join(_texts(value))
        if isinstance(value, int) and not isinstance(value, bool) and self.action.type is not None:
            value = str(value)
        if not isinstance(value, str):
            raise ValueError("must be a whole number" if self.action.type else "must be a text in quotes")
        return self._typed(self._placed(value, folder))

    def _switched(self, on: bool) -> bool:
        return bool(self.action.const) is on

    def _typed(self, text: str) -> Value:
        """The text as argparse would take it."""
        value: Value = text
        if callable(self.action.type):
            try:
                value = self.action.type(text)
            except (argparse.ArgumentTypeError, ValueError) as error:
                raise ValueError(str(error)) from error
        if self.action.choices is not None and value not in self.action.choices:
            raise ValueError(f"{text!r} is none of {', '.join(map(str, self.action.choices))}")
        return value

    def _placed(self, text: str, folder: str) -> str:
        """A place on the disk as seen from the folder; anything else as it is."""
        import glob

        by_its_look = self.dest == "model" and text.startswith((".", "~"))  # others are names on the hub
        if text == "-" or not (self.is_place or by_its_look):
            return text
        text = os.path.expanduser(text)
        path = os.path.join(folder, text)
        if self.is_list and glob.has_magic(text) and not os.path.lexists(path):
            return os.path.join(glob.escape(folder), text)
        return path


def options_of(parser: argparse.ArgumentParser) -> Mapping[str, Option]:
    """All options of a command by name, in the order of its help."""
    found: dict[str, Option] = {}
    shown: set[str] = set()
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction | argparse._VersionAction):
            continue
        names = [name[2:] for name in action.option_strings if name.startswith("--")] or [action.dest]
        for name in names:
            found[name] = Option(name, action, action.dest not in shown)
            shown.add(action.dest)
    return found


def _texts(value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError('must be a list of texts, ["...", "..."]')
    return value
