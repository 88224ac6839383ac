"""Reading a recipe: a TOML file below this folder."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vitune.errors import ConfigError, NothingMatchedError, did_you_mean

_FOLDER = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings that a publication reports for a benchmark and a method.

    Attributes:
        name: Its path below this folder, and the task where it is for one: `vtab1k/ssf/dtd`.
        title: What it is.
        method: The method as text.
        backbone: What the published numbers were made with; the recipe does not choose it.
        source: Where the values were published.
        evidence: How sure they are, and what they were not taken from.
        differs: Where a run of ours is not the published one.
        data: Settings of the data.
        train: Settings of training.
        choose: Settings that the source gives as a search range rather than a value, and the range in words.
        tasks: Names of the tasks that have values of their own.
    """

    name: str
    title: str
    method: str
    backbone: str
    source: str
    evidence: str
    differs: str
    data: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)
    choose: Mapping[str, str] = field(default_factory=dict)
    tasks: tuple[str, ...] = ()

    def train_settings(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of training, with those of the user put over them.

        Args:
            given: What the user chose.

        Raises:
            ConfigError: If the user must choose one that the source does not fix.
        """
        for name, searched in self.choose.items():
            if name not in given:
                option = f"--{name.replace('_', '-')}"
                raise ConfigError(f"the recipe '{self.name}' needs {option}: its source uses {searched}.")
        return {**self.train, **given}


def recipe_names() -> list[str]:
    """The recipes there are, without those of single tasks."""
    return sorted(path.relative_to(_FOLDER).with_suffix("").as_posix() for path in _FOLDER.rglob("*.toml"))


def load_recipe(name: str) -> Recipe:
    """The recipe of a name.

    Args:
        name: For instance `vtab1k/ssf`, or `vtab1k/ssf/dtd` for one task.

    Raises:
        NothingMatchedError: If there is none, or it has no such task.
    """
    names = recipe_names()
    stem, _, task = (name, "", "") if name in names else name.rpartition("/")
    if stem not in names:
        raise NothingMatchedError(f"no recipe '{name}'. {did_you_mean(name, names)}")
    content = tomllib.loads((_FOLDER / f"{stem}.toml").read_text(encoding="utf-8"))
    tasks: dict[str, dict[str, Any]] = content.pop("tasks", {})
    if task and task not in tasks:
        raise NothingMatchedError(f"the recipe '{stem}' has no task '{task}'. {did_you_mean(task, tasks)}")
    content["train"] = {**content.get("train", {}), **tasks.get(task, {})}
    return Recipe(name=name, tasks=tuple(tasks), **content)
