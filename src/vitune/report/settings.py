"""The settings of a run as tables, and what is needed to make it again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vitune.report import units
from vitune.report.record import RunRecord

LONGEST_VALUE = 300
SURROUNDINGS = ("versions", "environment", "machine")
ELSEWHERE = (*SURROUNDINGS, "command", "class_names", "format", "method", "methods")


@dataclass(frozen=True)
class SettingsGroup:
    """Settings that belong together: (name, value) pairs."""

    title: str
    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Regeneration:
    """How to make a run again."""

    commands: tuple[tuple[str, str], ...]
    facts: tuple[tuple[str, str], ...]


def settings_groups(run: RunRecord) -> tuple[SettingsGroup, ...]:
    """The resolved settings where the run has them, else what result.json tells of them."""
    source = run.config if run.config is not None else {"model": run.model, "data": run.data}
    groups = [
        SettingsGroup(f"Method {name}", tuple(_flat(settings)) or (("settings", "none"),))
        for name, settings in run.methods
    ]
    single: list[tuple[str, str]] = []
    for key, value in source.items():
        if key in ELSEWHERE or value in ({}, []):
            continue
        if isinstance(value, dict | list) and value:
            groups.append(SettingsGroup(_words(key), tuple(_flat(value))))
        else:
            single.append(_row(key, value))
    return (*groups, *([SettingsGroup("Other", tuple(single))] if single else []))


def regeneration(run: RunRecord) -> Regeneration:
    """The command, the versions, the machine and the seed."""
    commands = [("The command that made this run", run.command)] if run.command else []
    if run.config is not None:
        path = shlex.quote(str(run.directory / "config.json"))
        commands.append(("The same from its stored settings", f"vitune train --config {path}"))
    config = run.config or {}
    facts = {"seed": _shown(run.seed)}
    # Both files tell of versions and machine; what one lacks the other may have.
    for surroundings in (run.environment, {key: config[key] for key in SURROUNDINGS if key in config}):
        for key, value in surroundings.items():
            for name, words in _flat(value) if isinstance(value, dict) else [_row(key, value)]:
                facts.setdefault(name, words)
    return Regeneration(tuple(commands), tuple(facts.items()))


def _flat(value: Mapping[str, Any] | list[Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings by dotted names; lists of plain values stay in one row."""
    entries = (
        value.items() if isinstance(value, Mapping) else ((str(i), v) for i, v in enumerate(value, start=1))
    )
    for key, entry in entries:
        nested = isinstance(entry, dict) or (
            isinstance(entry, list) and any(isinstance(e, dict) for e in entry)
        )
        if nested and entry:
            yield from _flat(entry, f"{prefix}{key}.")
        else:
            yield _row(f"{prefix}{key}", entry)


def _row(name: str, value: Any) -> tuple[str, str]:
    if name.endswith("_bytes") and isinstance(value, int):
        return name.removesuffix("_bytes"), units.size(value)
    return name, _shown(value)


def _shown(value: Any) -> str:
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list) and value and all(isinstance(entry, str) for entry in value):
        value = ", ".join(value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 1] + "\u2026"


def _words(key: str) -> str:
    words = key.replace("_", " ")
    return words[:1].upper() + words[1:]
