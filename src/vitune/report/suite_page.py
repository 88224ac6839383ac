"""The report of a suite: what `suite.json` holds, ready for templates/suite.html.j2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitune.errors import RunError
from vitune.report import units
from vitune.report.charts import TONES
from vitune.report.fields import Fields, read_object
from vitune.report.method_rows import COST_HEADS, Amount, MethodRow, method_row
from vitune.report.methods_page import Failure, method_scatters, pairs_text, shown
from vitune.report.published_table import PublishedTable, published_table
from vitune.report.scatter import Scatter
from vitune.report.shell import render_page, write_page

FORMAT = 1
_OVER = {"images": "test images", "seeds": "seeds"}


@dataclass(frozen=True)
class Beside:
    """How a method stands beside the baseline from task to task, in words."""

    counts: str
    over_tasks: str
    value: str


@dataclass(frozen=True)
class ScoreCell:
    """The accuracy of one method on one row; `best` where it can be told from the runner-up."""

    amount: Amount
    interval: str
    best: bool
    extra: str


@dataclass(frozen=True)
class ScoreRow:
    """A task, a further test set or a mean, with a cell for each method; `key` is the section that tells more."""

    name: str
    group: str
    key: str | None
    cells: tuple[ScoreCell, ...]


@dataclass(frozen=True)
class TaskSection:
    """What the page tells of one task."""

    key: str
    name: str
    lead: str
    rows: tuple[MethodRow, ...]
    candidate_count: int
    report: str


@dataclass(frozen=True)
class SuitePage:
    """The whole page."""

    lead: str
    about: str
    verdict: str
    headline: str
    baseline: str
    methods: tuple[tuple[str, int], ...]
    rows: tuple[MethodRow, ...]
    beside: tuple[Beside | None, ...]
    means: tuple[ScoreRow, ...]
    tasks: tuple[ScoreRow, ...]
    has_groups: bool
    over_words: str
    scatters: tuple[Scatter, ...]
    sections: tuple[TaskSection, ...]
    published: PublishedTable | None
    failures: tuple[Failure, ...]
    command: str | None
    facts: tuple[tuple[str, str], ...]
    settings: tuple[tuple[str, str], ...]


def write_suite_report(source: Path, destination: Path) -> Path:
    """Write the report of a suite.

    Args:
        source: The `suite.json` that `vitune bench` wrote.
        destination: The HTML file to write; an existing one is replaced in one step.

    Returns:
        The file written.

    Raises:
        RunError: If the results cannot be read, or the file cannot be written.
    """
    fields = read_object(Path(source))
    found = fields.values.get("format")
    if found != FORMAT:
        raise RunError(
            f"{source} has format {found!r}, but this version of vitune reads format {FORMAT}; "
            "make the report with the version that ran the suite."
        )
    page = suite_page(fields)
    title = fields.mapping("suite").text("title") or "Suite"
    heads = [head for head, _, _ in COST_HEADS]
    return write_page(
        Path(destination), render_page("suite.html.j2", title=title, page=page, cost_heads=heads)
    )


def suite_page(fields: Fields) -> SuitePage:
    """What the page shows.

    Args:
        fields: The contents of `suite.json`.

    Raises:
        RunError: If a value is of the wrong type.
    """
    methods = fields.objects("methods")
    names = [method.text("method") or "unknown method" for method in methods]
    baseline = fields.text("baseline") or ""
    comparisons = fields.mapping("comparisons")
    keys = {name: f"task-{index + 1}" for index, name in enumerate(comparisons.values)}
    scored = [*fields.objects("rows"), *fields.objects("means")]
    over = {row.mapping("accuracy").mapping(name).text("over") or "" for row in scored for name in names}
    mark = {"images", "seeds"} <= over
    tasks = tuple(
        _score_row(row, names, keys.get(row.text("task") or ""), mark) for row in fields.objects("rows")
    )
    suite = fields.mapping("suite")
    return SuitePage(
        lead=_lead(fields, len(tasks)),
        about=suite.text("about") or "",
        verdict=_verdict(fields, methods),
        headline=fields.text("headline") or "mean over tasks",
        baseline=baseline,
        methods=tuple((name, index % TONES) for index, name in enumerate(names)),
        rows=_method_rows(methods, baseline),
        beside=tuple(_beside(method) for method in methods),
        means=tuple(_score_row(mean, names, None, mark) for mean in fields.objects("means")),
        tasks=tasks,
        has_groups=len({row.group for row in tasks}) > 1,
        over_words=_over_words(over),
        scatters=method_scatters(methods),
        sections=tuple(
            _section(comparisons.mapping(name), name, key, baseline) for name, key in keys.items()
        ),
        published=published_table(fields, methods),
        failures=tuple(_failure(entry) for entry in fields.objects("failures")),
        command=fields.text("command"),
        facts=_facts(fields),
        settings=tuple((name, shown(value)) for name, value in fields.mapping("settings").values.items()),
    )


def _lead(fields: Fields, rows: int) -> str:
    seeds = len(fields.mapping("protocol").values.get("seeds") or ())
    suite = fields.mapping("suite")
    over = f"{seeds} seeds" if seeds > 1 else "one seed"
    whole = suite.integer("tasks")
    part = f" ({len(fields.mapping('comparisons').values)} of the suite's {whole} tasks)" if whole else ""
    protocol = suite.text("protocol_title")
    changed = pairs_text(suite.mapping("changed"))
    return (
        f"Test accuracy on {rows} test set{'s' * (rows != 1)}{part}, {over}, backbone "
        f"{fields.text('model') or 'not recorded'}, protocol {suite.text('protocol') or 'not recorded'}"
        f"{f' ({protocol})' if protocol else ''}. Intervals hold 95\u00a0%; one marked (images) is over the test "
        f"images, where seeds cannot tell.{f' Changed from the suite: {changed}.' if changed else ''}"
    )


def _verdict(fields: Fields, methods: Sequence[Fields]) -> str:
    headline = fields.text("headline") or "mean over tasks"
    best = [method.text("method") for method in methods if method.values.get("best") is True]
    if best:
        return (
            f"{best[0]} is best in the {headline} of these tasks: its paired difference to the runner-up is above 0 "
            "by its 95\u00a0% interval."
        )
    return (
        f"No method is marked as best in the {headline}: the paired 95\u00a0% interval between the two highest "
        "holds 0, or is not known."
    )


def _method_rows(methods: Sequence[Fields], baseline: str) -> tuple[MethodRow, ...]:
    ends = [
        value
        for method in methods
        for key in ("mean", "low", "high")
        if (value := method.mapping("accuracy").number(key)) is not None
    ]
    return tuple(method_row(method, index, baseline, ends) for index, method in enumerate(methods))


def _beside(method: Fields) -> Beside | None:
    over = method.mapping("over_tasks")
    if not over.values:
        return None
    above, below, both = (over.integer(key) or 0 for key in ("above", "below", "open"))
    interval: Any = over.values.get("interval")
    words = "-"
    if interval:
        mean, low, high = (100 * value for value in interval)
        words = f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"
    return Beside(f"{above} / {both} / {below}", words, str(interval[0]) if interval else "")


def _over_words(over: set[str]) -> str:
    if {"images", "seeds"} <= over:
        return " over the seeds; one marked (images) is over the test images, where seeds cannot tell"
    return "".join(f" over the {words}" for name, words in _OVER.items() if name in over)


def _score_row(row: Fields, names: Sequence[str], key: str | None, mark: bool) -> ScoreRow:
    accuracy, best = row.mapping("accuracy"), row.text("best")
    return ScoreRow(
        name=row.text("name") or "",
        group=row.text("group") or "",
        key=key,
        cells=tuple(
            _cell(accuracy.mapping(name), name == best, row.mapping("extra").mapping(name), mark)
            for name in names
        ),
    )


def _cell(estimate: Fields, best: bool, extra: Fields, mark: bool) -> ScoreCell:
    mean, low, high = (estimate.number(key) for key in ("mean", "low", "high"))
    if mean is None:
        return ScoreCell(Amount("-", ""), "", False, "")
    interval = ""
    if low is not None and high is not None:
        interval = f"{100 * low:.1f} to {100 * high:.1f}" + (
            " (images)" if mark and estimate.text("over") == "images" else ""
        )
    mce = extra.number("mce")
    return ScoreCell(
        Amount(f"{100 * mean:.1f}", repr(mean)), interval, best, "" if mce is None else f"mCE {100 * mce:.1f}"
    )


def _section(comparison: Fields, name: str, key: str, baseline: str) -> TaskSection:
    data, methods = comparison.mapping("data"), comparison.objects("methods")
    sizes = data.mapping("sizes").values
    images = ", ".join(f"{count:,} {units.split_words(split)}" for split, count in sizes.items())
    shots = data.integer("shots")
    few = f"; {shots} images of each class are trained on" if shots is not None else ""
    rows = _method_rows(methods, baseline)
    return TaskSection(
        key=key,
        name=name,
        lead=f"{images} images, {shown(data.integer('classes'))} classes{few}.",
        rows=rows,
        candidate_count=max((len(row.candidates) for row in rows), default=0),
        report=f"{name}/report.html",
    )


def _failure(entry: Fields) -> Failure:
    stage = "choosing" if entry.text("stage") == "select" else f"seed {entry.text('seed')}"
    words = f"{entry.text('task')}, {entry.text('method')}, {stage}"
    return Failure(words, entry.text("error") or "", entry.text("file") or "")


def _facts(fields: Fields) -> tuple[tuple[str, str], ...]:
    suite = fields.mapping("suite")
    facts = [
        ("Suite", suite.text("name") or "not recorded"),
        ("Published in", suite.text("source") or "-"),
        ("Protocol", fields.mapping("protocol").text("name") or "not recorded"),
        ("Backbone", fields.text("model") or "not recorded"),
        ("Data", fields.text("root") or "not recorded"),
        ("Folder", fields.text("folder") or "not recorded"),
        ("Versions", pairs_text(fields.mapping("versions"))),
    ]
    return (*facts, *(("Machine", pairs_text(machine)) for machine in fields.objects("machines")))
