"""Reads the small JSON files of a checkpoint folder strictly: each error names the file and the key."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_chandra.errors import CheckpointError

Json = Mapping[str, Any]


@dataclass(frozen=True)
class JsonFile:
    """One JSON object of a file; `place` is where in the file it stands. Null counts as a missing key.

    Every method but `get` raises CheckpointError for a value of another kind, and for a missing key that has
    no default.
    """

    path: Path
    values: Json
    place: str = ""

    @classmethod
    def read(cls, path: Path, default: Json | None = None) -> "JsonFile":
        """Read a file that holds one JSON object; a missing one holds `default`, if there is one."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            if default is None:
                raise CheckpointError(
                    f"{path} is missing.",
                    "Is this a whole checkpoint folder? Download it again or point --model at the right one.",
                ) from None
            values = default
        except (OSError, ValueError) as error:
            remedy = "The file is damaged or can't be opened: download it again."
            raise CheckpointError(f"{path} can't be read as JSON: {error}.", remedy) from None
        if not isinstance(values, dict):
            raise CheckpointError(f"{path} should hold a JSON object.")
        return cls(path, values)

    def get(self, key: str, default: Any = None) -> Any:
        value = self.values.get(key)
        return default if value is None else value

    def need(self, key: str, default: Any = None) -> Any:
        value = self.get(key, default)
        if value is None:
            raise CheckpointError(
                f"{self.path}: the key {self._place(key)} is missing.", "Is this the file of a Chandra model?"
            )
        return value

    def count(self, key: str, default: int | None = None, least: int = 1) -> int:
        """Return a whole number from `least` up."""
        value = self.need(key, default)
        if not _is_count(value, least):
            raise self.wrong(key, f"a whole number from {least} up")
        return int(value)

    def counts(self, key: str) -> tuple[int, ...]:
        """Return whole numbers from 0 up; none where the key is missing."""
        values = self.get(key, [])
        if not isinstance(values, list) or not all(_is_count(value, 0) for value in values):
            raise self.wrong(key, "a list of whole numbers")
        return tuple(values)

    def number(self, key: str, default: float | None = None) -> float:
        """Return a number above 0."""
        value = self.need(key, default)
        if not _is_number(value) or value <= 0:
            raise self.wrong(key, "a number above 0")
        return float(value)

    def numbers(self, key: str, count: int) -> tuple[float, ...]:
        """Return a list of `count` numbers."""
        values = self.need(key)
        if not isinstance(values, list) or len(values) != count or not all(map(_is_number, values)):
            raise self.wrong(key, f"a list of {count} numbers")
        return tuple(map(float, values))

    def section(self, key: str, default: Json | None = None) -> "JsonFile":
        """Return a nested object."""
        value = self.need(key, default)
        if not isinstance(value, dict):
            raise self.wrong(key, "an object")
        return JsonFile(self.path, value, self._place(key))

    def wrong(self, key: str, wanted: str) -> CheckpointError:
        """Return the error of a key that should be something else."""
        value = self.values.get(key)
        return CheckpointError(f"{self.path}: {self._place(key)} should be {wanted}, but it is {value!r}.")

    def _place(self, key: str) -> str:
        return f"{self.place}.{key}" if self.place else key


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
