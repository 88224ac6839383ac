"""Reading a recipe: a TOML file below this folder, and the protocol that it shares with others."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from vitune.errors import ConfigError, NothingMatchedError, did_you_mean

Evidence = Literal["released", "quoted", "partial"]
"""`released`: read in code, scripts or configurations that the authors released. `quoted`: from the text of a paper, or
from others who quote it. `partial`: the source leaves something open, and `Recipe.evidence` says what stands in."""

_FOLDER = Path(__file__).parent
_PROTOCOLS = "_protocols.toml"
_OPTIONS = (
    "epochs",
    "lr",
    "batch_size",
    "seed",
    "shots",
)  # `vitune train` has these by name; the rest are --set


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings that a publication reports for a benchmark and a method.

    Attributes:
        name: Its path below this folder, and the task where it is for one: `vtab1k/ssf/dtd`.
        title: What it is.
        method: The method as text.
        backbone: What the published numbers were made with; the recipe does not choose it.
        source: Where the values were published.
        level: What stands behind the values; see `Evidence`.
        evidence: How sure they are, and what they were not taken from.
        differs: Where a run of ours is not the published one.
        data: Settings of the data.
        train: Settings of training.
        choose: Settings that the source gives as a search range rather than a value, and the range in words.
        tasks: Names of the tasks (or of other backbones) that have values of their own.
        reads: Whether its model reads images or text; `vitune train` takes images.
        trainer: Of a model of text: settings of transformers' TrainingArguments.
        model: Of a model of text that starts from random weights: settings of its configuration.
        text: What it reads, and how many tokens at a time.
    """

    name: str
    title: str
    method: str
    backbone: str
    source: str
    level: Evidence
    evidence: str
    differs: str
    data: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)
    choose: Mapping[str, str] = field(default_factory=dict)
    tasks: tuple[str, ...] = ()
    reads: Literal["images", "text"] = "images"
    trainer: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    text: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.level not in get_args(Evidence):
            raise ConfigError(
                f"recipe '{self.name}': level is '{self.level}'. {did_you_mean(self.level, get_args(Evidence))}"
            )

    def require(self, given: Mapping[str, Any]) -> None:
        """Make sure that the recipe is for images, and that the user chose what its source does not fix.

        Args:
            given: Settings that the user gave.

        Raises:
            ConfigError: If it is for text, or a choice is missing; says what the source uses.
        """
        if self.reads == "text":
            raise ConfigError(
                f"the recipe '{self.name}' trains a model of text, and the command line trains on images; "
                f"examples/velora_llama.py shows how to follow it in the Trainer of transformers."
            )
        for name, searched in self.choose.items():
            if name not in given:
                option = f"--{name.replace('_', '-')}" if name in _OPTIONS else f"--set {name}=VALUE"
                raise ConfigError(f"the recipe '{self.name}' needs {option}: its source uses {searched}.")


def recipe_names() -> list[str]:
    """The recipes there are, without those of single tasks."""
    paths = [path for path in _FOLDER.rglob("*.toml") if path.name != _PROTOCOLS]
    return sorted(path.relative_to(_FOLDER).with_suffix("").as_posix() for path in paths)


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
    content = _read(f"{stem}.toml")
    protocol = _read(_PROTOCOLS)[content.pop("protocol")] if "protocol" in content else {}
    tasks: dict[str, dict[str, Any]] = content.pop("tasks", {})
    if task and task not in tasks:
        raise NothingMatchedError(f"the recipe '{stem}' has no task '{task}'. {did_you_mean(task, tasks)}")
    values = dict(tasks.get(task, {}))
    content["method"] = _with(content["method"], values.pop("method", {}))
    content["backbone"] = values.pop("backbone", content["backbone"])
    content["differs"] = " ".join(filter(None, (content.get("differs"), protocol.get("differs"))))
    content["data"] = {**protocol.get("data", {}), **content.get("data", {})}
    train, own = {**protocol.get("train", {}), **content.get("train", {})}, content.get("choose", {})
    for key in values.pop("unset", ()):  # TOML has no null
        del train[key]
    # What a recipe leaves to choose goes before its protocol's value; what a task fixes, before both.
    content["train"] = {key: value for key, value in train.items() if key not in own} | values
    fixed = content["train"] | content["data"]
    content["choose"] = {
        k: text for k, text in {**protocol.get("choose", {}), **own}.items() if k not in fixed
    }
    return Recipe(name=name, tasks=tuple(tasks), **content)


def _read(path: str) -> dict[str, Any]:
    return tomllib.loads((_FOLDER / path).read_text(encoding="utf-8"))


def _with(method: str, settings: Mapping[str, Any]) -> str:
    """The text of one method with some of its settings replaced by those of a task."""
    if not settings:
        return method
    from vitune.methods.parse import parse, value_text

    name, _, given = method.partition("(")
    kept = [
        part for part in given.removesuffix(")").split(",") if part and part.partition("=")[0] not in settings
    ]
    text = f"{name}({','.join([*kept, *(f'{key}={value_text(value)}' for key, value in settings.items())])})"
    parse(text)  # a setting that the method has not is found here, not in the middle of a run
    return text
