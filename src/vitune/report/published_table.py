"""Published numbers beside measured ones: apart in a table of their own, with protocol and evidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vitune.report.fields import Fields
from vitune.report.method_rows import Amount

_LEVELS = {
    "paper": "read in the paper or in what its authors released",
    "quoted": "in a benchmark or a paper that quotes it",
    "unverified": "from a source that could not be checked",
}


@dataclass(frozen=True)
class PublishedLine:
    """One published row; `here` is what was measured for the same method in this run."""

    label: str
    here: Amount
    numbers: tuple[Amount, ...]
    parameters: str
    backbone: str
    protocol: str
    level: str
    level_words: str
    source: str


@dataclass(frozen=True)
class PublishedTable:
    """All of them; `heads` names the columns of `numbers`."""

    headline: str
    heads: tuple[str, ...]
    lines: tuple[PublishedLine, ...]
    levels: tuple[tuple[str, str], ...]


def published_table(fields: Fields, methods: Sequence[Fields]) -> PublishedTable | None:
    """The table, or None where nothing is known to be published.

    Args:
        fields: The contents of `suite.json`.
        methods: What it holds of each method.

    Raises:
        RunError: If a value is of the wrong type.
    """
    rows = fields.objects("published")
    if not rows:
        return None
    groups = list(dict.fromkeys(name for row in rows for name in row.mapping("groups").values))
    tasks = list(dict.fromkeys(name for row in rows for name in row.mapping("tasks").values))
    here = {
        (method.text("method") or "").partition("(")[0]: method.mapping("accuracy").number("mean")
        for method in methods
    }
    means = [
        (head, key)
        for head, key in (("Mean of groups", "mean_of_groups"), ("Mean over tasks", "mean_of_tasks"))
        if any(row.number(key) is not None for row in rows)
    ]
    lines = tuple(
        PublishedLine(
            label=row.text("label") or "",
            here=_percent(here.get(row.text("method") or "-"), 100),
            numbers=tuple(
                [_percent(row.number(key)) for _, key in means]
                + [_percent(row.mapping("groups").number(name)) for name in groups]
                + [_percent(row.mapping("tasks").number(name)) for name in tasks]
            ),
            parameters=row.text("parameters") or "-",
            backbone=row.text("backbone") or "",
            protocol=" ".join(filter(None, (row.text("protocol"), row.text("note")))),
            level=row.text("level") or "",
            level_words=_LEVELS.get(row.text("level") or "", ""),
            source=row.text("source") or "",
        )
        for row in rows
    )
    used = {line.level for line in lines}
    return PublishedTable(
        headline=fields.text("headline") or "mean over tasks",
        heads=(*(head for head, _ in means), *groups, *tasks),
        lines=lines,
        levels=tuple((name, words) for name, words in _LEVELS.items() if name in used),
    )


def _percent(value: float | None, scale: float = 1) -> Amount:
    return Amount("-", "") if value is None else Amount(f"{scale * value:.1f}", repr(scale * value))
