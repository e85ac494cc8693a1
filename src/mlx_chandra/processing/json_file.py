"""Reads the small JSON files of a checkpoint folder, strictly.

Every problem is a CheckpointError that names the file and the key, so that a broken download or a hand-edited
file is found at once. What the values mean is up to the callers.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from mlx_chandra.errors import CheckpointError

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class JsonFile:
    """One JSON object and the file it came from (`path` also tells where in the file, for nested objects)."""

    path: str
    values: Mapping[str, object]

    @classmethod
    def read(cls, path: Path) -> "JsonFile":
        """Reads a file that must be there and hold one JSON object; raises CheckpointError otherwise."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise CheckpointError(
                f"{path}: can't be read ({error.strerror or error}).",
                "Is this the whole checkpoint folder? Download it again or point --model at the right one.",
            ) from error
        except ValueError as error:
            raise CheckpointError(
                f"{path}: is not valid JSON ({error}).", "The file is damaged: download it again."
            ) from error
        if not isinstance(values, dict):
            raise CheckpointError(f"{path}: holds {type(values).__name__}, not a JSON object.")
        return cls(str(path), values)

    @classmethod
    def read_if_there(cls, path: Path) -> "JsonFile | None":
        """Like `read`, but None when there is no such file."""
        return cls.read(path) if path.is_file() else None

    def has(self, key: str) -> bool:
        """Whether the key is there with a value (null counts as absent)."""
        return self.values.get(key) is not None

    def integer(self, key: str) -> int:
        """A whole number. This and what follows raise CheckpointError for a missing key or another type."""
        return self._of_type(key, int, "must be a whole number")

    def positive(self, key: str) -> int:
        """A whole number above zero."""
        value = self.integer(key)
        if value <= 0:
            raise self.problem(key, "must be above zero")
        return value

    def number(self, key: str) -> float:
        """Any number."""
        value = self.values.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.problem(key, "must be a number")
        return float(value)

    def text(self, key: str) -> str:
        """A string."""
        return self._of_type(key, str, "must be a string")

    def numbers(self, key: str, count: int) -> tuple[float, ...]:
        """A list of `count` numbers."""
        rule = f"must be a list of {count} numbers"
        values: list[object] = self._of_type(key, list, rule)
        if len(values) != count:
            raise self.problem(key, rule)
        return tuple(JsonFile(self.path, {key: item}).number(key) for item in values)

    def section(self, key: str) -> "JsonFile":
        """A nested object."""
        return JsonFile(f"{self.path} [{key}]", self._of_type(key, dict, "must be an object"))

    def _of_type(self, key: str, kind: type[_Value], rule: str) -> _Value:
        value = self.values.get(key)
        if isinstance(value, bool) or not isinstance(value, kind):
            raise self.problem(key, rule)
        return value

    def problem(self, key: str, rule: str) -> CheckpointError:
        """The error for a key that breaks a rule; says what stands there instead."""
        if key not in self.values:
            return CheckpointError(f"{self.path}: the key {key!r} is missing ({rule}).")
        return CheckpointError(f"{self.path}: {key!r} {rule}, but is {self.values[key]!r}.")
