"""Published numbers: what papers report for a suite, with protocol and what stands behind each row.

They are shown beside measured ones and enter no mean, rank or difference.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from vitune.errors import ConfigError, did_you_mean
from vitune.suites.loading import FOLDER

PublishedLevel = Literal["paper", "quoted", "unverified"]
"""`paper`: read in the paper or in what its authors released. `quoted`: read in a benchmark or a paper that quotes it.
`unverified`: from a source that could not be checked."""


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """One line of a published table, accuracies in percent.

    Attributes:
        label: The method as its paper calls it.
        method: The method of ours that it is about, as the command line spells it; empty where there is none.
        backbone: What it was measured with.
        protocol: How, in words: data, input, what selected the epoch.
        source: Where the numbers were read.
        level: What stands behind them.
        parameters: Trained parameters as published, in words.
        tasks: Accuracy by task.
        groups: Mean by group.
        mean_of_tasks: Mean over the tasks, as published or computed from a full row.
        mean_of_groups: Mean of the group means.
        note: What else to know.
    """

    label: str
    method: str = ""
    backbone: str
    protocol: str
    source: str
    level: PublishedLevel
    parameters: str = ""
    tasks: Mapping[str, float] = field(default_factory=dict)
    groups: Mapping[str, float] = field(default_factory=dict)
    mean_of_tasks: float | None = None
    mean_of_groups: float | None = None
    note: str = ""


def load_published(suite: str) -> tuple[PublishedRow, ...]:
    """What is published for a suite of the package; empty where we know of nothing.

    Args:
        suite: Name of the suite.

    Raises:
        ConfigError: If the file is malformed.
    """
    path = FOLDER / "published" / f"{suite}.toml"
    if not path.is_file():
        return ()
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    order, shared = content.get("order", []), content.get("shared", {})
    return tuple(_row({**shared, **entry}, order, suite) for entry in content["rows"])


def _row(entry: dict[str, Any], order: list[str], suite: str) -> PublishedRow:
    values = entry.pop("row", None)
    if values is not None:  # a full row in the order of the file
        if len(values) != len(order):
            raise ConfigError(
                f"published numbers of '{suite}': the row '{entry.get('label')}' has {len(values)} values for "
                f"{len(order)} tasks; correct it."
            )
        entry["tasks"] = dict(zip(order, values, strict=True))
    level = entry.get("level")
    if level not in get_args(PublishedLevel):
        raise ConfigError(
            f"published numbers of '{suite}': the level of '{entry.get('label')}' is {level!r}. "
            f"{did_you_mean(str(level), get_args(PublishedLevel))}"
        )
    return PublishedRow(**entry)
