"""Settings of a dataclass, as text: reading `--set name=value` and listing what there is."""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vitune.errors import ConfigError, did_you_mean

_ENTRY = re.compile(r"^ {4}(?P<name>\w+): (?P<text>.*(?:\n {8,}.*)*)", re.MULTILINE)


@dataclass(frozen=True)
class Setting:
    """One field of a dataclass of settings.

    Attributes:
        name: Its name.
        kind: What it holds, in words.
        default: Its default as text.
        explanation: What the docstring of the dataclass says of it.
    """

    name: str
    kind: str
    default: str
    explanation: str


def settings_of(cls: type) -> list[Setting]:
    """The settings of a dataclass in its own order.

    Args:
        cls: A dataclass with an `Args:` or `Attributes:` section in its docstring.
    """
    from vitune.methods.parse import type_text

    hints = typing.get_type_hints(cls)
    explanations = _explanations(cls)
    found = []
    for field in dataclasses.fields(cls):
        kind, text = type_text(hints[field.name]), explanations.get(field.name, "")
        found.append(Setting(field.name, kind, _default_text(field.default), text))
    return found


def read_settings(assignments: Sequence[str], known: dict[str, Any]) -> dict[str, Any]:
    """Read `name=value` words.

    Args:
        assignments: The words.
        known: Name to type of every setting.

    Returns:
        Name to value.

    Raises:
        ConfigError: If a word is malformed, a name unknown or given twice, or a value of the wrong kind.
    """
    from vitune.methods.parse import read_value, type_text

    values: dict[str, Any] = {}
    for word in assignments:
        name, equals, text = (part.strip() for part in word.partition("="))
        if not equals or not name or not text:
            raise ConfigError(f"cannot read --set '{word}'; write --set name=value.")
        name = name.replace("-", "_")
        if name not in known:
            raise ConfigError(f"--set {name}: there is no such setting. {did_you_mean(name, known)}")
        if name in values:
            raise ConfigError(f"--set {name} is given twice; give it once.")
        try:
            values[name] = read_value(text, known[name])
        except ValueError:
            raise ConfigError(f"--set {name}: it must be {type_text(known[name])}, not '{text}'.") from None
    return values


def _default_text(value: Any) -> str:
    from vitune.methods.parse import value_text

    if value is dataclasses.MISSING:
        return "(required)"
    return "none" if value is None else value_text(value) or "(empty)"


def _explanations(cls: type) -> dict[str, str]:
    """From the docstrings of a class and of those it takes fields from."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        text = inspect.cleandoc(vars(base).get("__doc__") or "")
        section = re.split(r"^(?:Args|Attributes):\n", text, maxsplit=1, flags=re.MULTILINE)
        if len(section) == 2:
            found |= {entry["name"]: " ".join(entry["text"].split()) for entry in _ENTRY.finditer(section[1])}
    return found
