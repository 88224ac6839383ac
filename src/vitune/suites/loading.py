"""Reading a suite: a TOML file of this folder, or one of the user's own.

A suite says which tasks there are, where their data lie below a root, in which layout, and what all of them share. The
keys are the fields of the classes below. A table `each` in a task makes one task for every combination of its values,
which `{name}` puts into the task's texts and which are settings of its data:

    [[tasks]]
    name = "digits-{shots}"
    folder = "digits"
    layout = "folder"
    group = "{shots} shots"
    each = { shots = [1, 4] }
"""

from __future__ import annotations

import dataclasses
import itertools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from vitune.errors import ConfigError, NothingMatchedError, did_you_mean
from vitune.tasks.request import DataSettings
from vitune.training.config import TrainConfig

Search = Literal["none", "small"]
Headline = Literal["tasks", "groups"]
"""Which mean sums a suite up: that over its tasks, or that of its groups."""

FOLDER = Path(__file__).parent
_OF_DATA = tuple(f.name for f in dataclasses.fields(DataSettings) if f.name not in ("path", "train_split"))


@dataclass(frozen=True, kw_only=True)
class EvaluationSet:
    """Further images that every final run of a task is tested on, without training on any of them.

    Attributes:
        name: Its name in the tables.
        folder: Below the root; the first of several that exists is taken.
        layout: How it lies on the disk.
        check: What `vitune.data.layouts.missing` is to look for besides, for instance `domains`.
        group: Which group it belongs to.
        get: Where it comes from, in words.
    """

    name: str
    folder: tuple[str, ...]
    layout: str = "folder"
    check: Mapping[str, Any] = field(default_factory=dict)
    group: str = ""
    get: str = ""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One data set of a suite and how it is split.

    Attributes:
        name: Its name in the tables, and of its folder of results.
        folder: Below the root; the first of several that exists is taken.
        layout: How it lies on the disk.
        check: What `vitune.data.layouts.missing` is to look for besides, for instance `domains`.
        group: Which group it belongs to.
        data: Settings of the data, such as `shots`.
        train: Settings of training that differ from the suite's.
        archive: A tar file below the root that holds the folder, unpacked where the folder is missing.
        make: Name of a generator of `vitune.bench.suite_data`, for data that need no download.
        get: Where the data come from, in words.
        evaluations: Further sets that its final runs are tested on.
    """

    name: str
    folder: tuple[str, ...]
    layout: str = "folder"
    check: Mapping[str, Any] = field(default_factory=dict)
    group: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)
    archive: str | None = None
    make: str | None = None
    get: str = ""
    evaluations: tuple[EvaluationSet, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SuiteProtocol:
    """A named way to run a suite; its name stands in every trial.

    Attributes:
        name: Its name.
        title: What it is, in words.
        data: Settings of the data that differ from the suite's.
        train: Settings of training that differ from the suite's.
    """

    name: str
    title: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A benchmark.

    Attributes:
        name: Its name, or that of its file.
        title: What it is.
        source: Where the benchmark was published.
        about: What to know before reading its numbers.
        tasks: The tasks.
        headline: Which mean sums it up.
        seeds: How many seeds, where the user does not say.
        search: Which search, where the user does not say and `rates` does not.
        methods: Methods that are compared where the user names none.
        rates: Method to its learning rates to choose from, the same number for each.
        data: Settings of the data that all tasks share.
        train: Settings of training that all tasks share.
        protocols: Named ways to run it; the first is the default. Without any, there is one of the suite's name.
    """

    name: str
    title: str
    source: str = ""
    about: str = ""
    tasks: tuple[Task, ...]
    headline: Headline = "tasks"
    seeds: int = 3
    search: Search = "small"
    methods: tuple[str, ...] = ()
    rates: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)
    protocols: tuple[SuiteProtocol, ...]

    def protocol(self, name: str | None = None) -> SuiteProtocol:
        """The protocol of a name, or the default.

        Raises:
            NothingMatchedError: If there is none of that name.
        """
        known = {protocol.name: protocol for protocol in self.protocols}
        if name is not None and name not in known:
            raise NothingMatchedError(
                f"the suite '{self.name}' has no protocol '{name}'. {did_you_mean(name, known)}"
            )
        return known[name] if name is not None else self.protocols[0]


def suite_names() -> list[str]:
    """The suites in the package."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load_suite(name: str) -> Suite:
    """The suite of a name, or in a file.

    Args:
        name: For instance `vtab1k`, or a path that ends in `.toml`.

    Raises:
        NothingMatchedError: If there is none.
        ConfigError: If the file is no suite; says where and why.
    """
    own = Path(name)
    if own.suffix == ".toml":
        if not own.is_file():
            raise NothingMatchedError(f"there is no suite file '{own}'; check the path.")
        return _suite(own, own.stem)
    if name not in suite_names():
        raise NothingMatchedError(
            f"there is no suite '{name}'. {did_you_mean(name, suite_names())} A file of your own ends in .toml."
        )
    return _suite(FOLDER / f"{name}.toml", name)


def _suite(path: Path, name: str) -> Suite:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"the suite '{path}' cannot be read: {error}; correct the file.") from None
    where = f"the suite '{name}'"
    _check(content, Suite, where, but=("name",))
    headline, search = content.get("headline", "tasks"), content.get("search", "small")
    for key, value, known in (
        ("headline", headline, get_args(Headline)),
        ("search", search, get_args(Search)),
    ):
        if value not in known:
            raise ConfigError(f"{where}: {key} is {value!r}. {did_you_mean(str(value), known)}")
    tasks = tuple(task for entry in content.get("tasks", ()) for task in _tasks(entry, where))
    if not tasks:
        raise ConfigError(f"{where} has no [[tasks]]; give one or more.")
    _check_names([task.name for task in tasks] + [e.name for task in tasks for e in task.evaluations], where)
    rates = {method: tuple(map(float, values)) for method, values in content.get("rates", {}).items()}
    if len({len(values) for values in rates.values()}) > 1:
        raise ConfigError(f"{where}: [rates] must give the same number of learning rates to every method.")
    named = content.get("protocols", {}).items()
    protocols = tuple(_protocol(key, value, f"{where}, protocol '{key}'") for key, value in named)
    texts = {key: content[key] for key in ("title", "source", "about", "seeds") if key in content}
    return Suite(
        name=name,
        tasks=tasks,
        headline=headline,
        search=search,
        methods=tuple(content.get("methods", ())),
        rates=rates,
        data=_data(content.get("data", {}), where),
        train=_train(content.get("train", {}), where),
        protocols=protocols or (SuiteProtocol(name=name),),
        **texts,
    )


def _protocol(name: str, content: Mapping[str, Any], where: str) -> SuiteProtocol:
    _check(content, SuiteProtocol, where, but=("name",))
    data, train = _data(content.get("data", {}), where), _train(content.get("train", {}), where)
    return SuiteProtocol(name=name, title=content.get("title", ""), data=data, train=train)


def _tasks(content: dict[str, Any], where: str) -> list[Task]:
    """The task of an entry, or one for every combination of its `each`."""
    each = content.pop("each", {})
    _check(content, Task, f"{where}, task '{content.get('name')}'")
    made = []
    for values in itertools.product(*each.values()):
        chosen = dict(zip(each, values, strict=True))
        texts: dict[str, Any] = _filled(content, chosen)
        own = f"{where}, task '{texts['name']}'"
        evaluations = tuple(_evaluation(entry, own) for entry in texts.pop("evaluations", ()))
        texts["data"] = _data({**texts.get("data", {}), **chosen}, own)
        texts["train"] = _train(texts.get("train", {}), own)
        made.append(Task(**{**texts, "folder": _folders(texts["folder"]), "evaluations": evaluations}))
    return made


def _filled(value: Any, chosen: Mapping[str, Any]) -> Any:
    """The value with `{name}` replaced in all its texts."""
    if isinstance(value, str):
        for name, found in chosen.items():
            value = value.replace(f"{{{name}}}", str(found))
        return value
    if isinstance(value, list):
        return [_filled(item, chosen) for item in value]
    return {key: _filled(item, chosen) for key, item in value.items()} if isinstance(value, dict) else value


def _evaluation(content: Mapping[str, Any], where: str) -> EvaluationSet:
    _check(content, EvaluationSet, f"{where}, evaluation '{content.get('name')}'")
    return EvaluationSet(**{**content, "folder": _folders(content["folder"])})


def _folders(value: str | list[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _check(content: Mapping[str, Any], kind: type, where: str, but: tuple[str, ...] = ()) -> None:
    fields = [f for f in dataclasses.fields(kind) if f.name not in but]
    known = [f.name for f in fields]
    for key in content:
        if key not in known:
            raise ConfigError(f"{where} has the unknown key '{key}'. {did_you_mean(key, known)}")
    # What a file need not give, its reader fills in.
    filled = ("tasks", "protocols")
    for entry in fields:
        needed = entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING
        if needed and entry.name not in content and entry.name not in filled:
            raise ConfigError(f"{where} lacks '{entry.name}'; add it.")


def _check_names(names: list[str], where: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{where} has two tasks of the name '{name}'; give each its own.")
        if not name or not all(letter.isalnum() or letter in "._-" for letter in name) or name[0] in ".-":
            raise ConfigError(
                f"{where}: '{name}' is no name of a task; use letters, digits, '-', '_' and '.'."
            )


def _data(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    for key in values:
        if key not in _OF_DATA:
            raise ConfigError(f"{where}: there is no data setting '{key}'. {did_you_mean(key, _OF_DATA)}")
    return dict(values)


def _train(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """TOML has no null, so "none" stands for it, as it does on the command line."""
    given = {key: None if value == "none" and key != "augment" else value for key, value in values.items()}
    try:
        TrainConfig.from_dict(given)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    return given
