"""Typed access to the keys of a JSON object: a missing key is None, a value of the wrong type is an error."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitune.errors import RunError


class Fields:
    """The keys of one JSON object, with the words that say where it stands (`runs/a/result.json: costs`)."""

    def __init__(self, values: Mapping[str, Any], where: str, prefix: str = "") -> None:
        self.values = values
        self.where = where
        self.prefix = prefix

    def _get(self, key: str, kinds: type | tuple[type, ...], expected: str) -> Any:
        value = self.values.get(key)
        # In Python a bool is an int, in a run directory it never stands for a number.
        if value is None or (isinstance(value, kinds) and not isinstance(value, bool)):
            return value
        raise self.error(key, expected, value)

    def error(self, key: str, expected: str, value: object) -> RunError:
        """The error for a value that cannot be used."""
        found = json.dumps(value, default=str)
        found = found if len(found) <= 60 else found[:57] + "..."
        return RunError(
            f"{self.where}: '{self.prefix}{key}' should be {expected} or null, found {found}; "
            "correct the file or make the run again."
        )

    def text(self, key: str) -> str | None:
        """A string.

        Raises:
            RunError: If the value is of another type.
        """
        return self._get(key, str, "a text")

    def integer(self, key: str) -> int | None:
        """A whole number, not negative.

        Raises:
            RunError: If the value is of another type or negative.
        """
        value = self._get(key, int, "a whole number")
        if value is not None and value < 0:
            raise self.error(key, "a whole number of at least 0", value)
        return value

    def number(self, key: str) -> float | None:
        """A finite number; not-a-number and infinity, which JSON from Python may hold, give None.

        Raises:
            RunError: If the value is of another type.
        """
        value = self._get(key, (int, float), "a number")
        return float(value) if value is not None and math.isfinite(value) else None

    def share(self, key: str) -> float | None:
        """A number between 0 and 1.

        Raises:
            RunError: If the value is of another type or outside.
        """
        value = self.number(key)
        if value is not None and not 0 <= value <= 1:
            raise self.error(key, "a share between 0 and 1", value)
        return value

    def mapping(self, key: str) -> Fields:
        """A nested object; empty where it is missing.

        Raises:
            RunError: If the value is of another type.
        """
        return Fields(self._get(key, dict, "an object") or {}, self.where, f"{self.prefix}{key}.")

    def objects(self, key: str) -> list[Fields]:
        """A list of objects; empty where it is missing.

        Raises:
            RunError: If the value is no list, or an entry is no object.
        """
        entries = self._get(key, list, "a list") or []
        for index, entry in enumerate(entries):
            if not isinstance(entry, dict):
                raise self.error(f"{key}[{index}]", "an object", entry)
        return [
            Fields(entry, self.where, f"{self.prefix}{key}[{index}].") for index, entry in enumerate(entries)
        ]

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings; empty where it is missing.

        Raises:
            RunError: If the value is no list, or an entry is no string.
        """
        entries = self._get(key, list, "a list") or []
        for index, entry in enumerate(entries):
            if not isinstance(entry, str):
                raise self.error(f"{key}[{index}]", "a text", entry)
        return tuple(entries)

    def numbers(self, key: str) -> tuple[float, ...]:
        """A list of finite numbers; empty where it is missing.

        Raises:
            RunError: If the value is no list, or an entry is something else.
        """
        entries = self._get(key, list, "a list") or []
        for index, entry in enumerate(entries):
            if isinstance(entry, bool) or not isinstance(entry, int | float) or not math.isfinite(entry):
                raise self.error(f"{key}[{index}]", "a finite number", entry)
        return tuple(float(entry) for entry in entries)

    def integers(self, key: str) -> tuple[int, ...]:
        """A list of whole numbers of at least 0; empty where it is missing.

        Raises:
            RunError: If the value is no list, or an entry is something else.
        """
        entries = self._get(key, list, "a list") or []
        for index, entry in enumerate(entries):
            if isinstance(entry, bool) or not isinstance(entry, int) or entry < 0:
                raise self.error(f"{key}[{index}]", "a whole number of at least 0", entry)
        return tuple(entries)

    def number_rows(self, key: str) -> tuple[tuple[float, ...], ...]:
        """A list of lists of finite numbers; empty where it is missing.

        Raises:
            RunError: If the value is no list of lists, or an entry is no number.
        """
        rows = self._get(key, list, "a list") or []
        inside = Fields({f"{key}[{i}]": row for i, row in enumerate(rows)}, self.where, self.prefix)
        return tuple(inside.numbers(name) for name in inside.values)


def read_object(path: Path) -> Fields:
    """Read a JSON file that holds one object.

    Args:
        path: The file; must exist.

    Raises:
        RunError: If the file cannot be read or holds something else.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}; check the file's permissions.") from None
    except ValueError as error:
        raise RunError(f"{path} is not valid JSON ({error}); restore it or make the run again.") from None
    if not isinstance(values, dict):
        raise RunError(
            f"{path} should hold a JSON object, found a {type(values).__name__}; make the run again."
        )
    return Fields(values, str(path))
