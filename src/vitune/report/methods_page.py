"""The report of a comparison of methods: what `comparison.json` holds, ready for templates/methods.html.j2."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vitune.errors import RunError
from vitune.report import units
from vitune.report.fields import Fields, read_object
from vitune.report.method_details import MethodDetails, chosen_words, method_details
from vitune.report.method_rows import COST_HEADS, MethodRow, method_row
from vitune.report.scatter import Scatter, ScatterPoint, accuracy_scatter
from vitune.report.shell import render_page, write_page

FORMAT = 1
_SEARCH = {
    "small": "a third of the method's default learning rate, the default, and three times it",
    "none": "the method's default learning rate",
    "given": "the given learning rates",
    "optuna": "N candidates, the defaults first and then what Optuna proposed from the results of earlier ones",
}
# Candidates that fit beside each other in a table.
MOST_COLUMNS = 5


@dataclass(frozen=True)
class Failure:
    """A trial that failed: what it was, what it said, where its file is."""

    trial: str
    error: str
    file: str


@dataclass(frozen=True)
class MethodsPage:
    """The whole page."""

    lead: str
    verdict: str
    baseline: str
    has_rank: bool
    rows: tuple[MethodRow, ...]
    scatters: tuple[Scatter, ...]
    has_front: bool
    candidate_count: int
    is_wide: bool
    choice: str
    seeds: tuple[str, ...]
    details: tuple[MethodDetails, ...]
    folder: str
    failures: tuple[Failure, ...]
    command: str | None
    facts: tuple[tuple[str, str], ...]
    settings: tuple[tuple[str, str], ...]


def _short_seconds(value: float | None) -> str:
    """On an axis, whose ticks are powers of ten."""
    return units.NOT_MEASURED if value is None else f"{value:,.3g} s" if value < 1000 else f"{value:,.0f} s"


def write_methods_report(source: Path, destination: Path, *, title: str | None = None) -> Path:
    """Write the report of a comparison of methods.

    Args:
        source: The `comparison.json` that `vitune compare` wrote.
        destination: The HTML file to write; an existing one is replaced in one step.
        title: Heading of the page.

    Returns:
        The file written.

    Raises:
        RunError: If the comparison cannot be read, or the file cannot be written.
    """
    fields = read_object(Path(source))
    found = fields.values.get("format")
    if found != FORMAT:
        raise RunError(
            f"{source} has format {found!r}, but this version of vitune reads format {FORMAT}; "
            "make the report with the version that made the comparison."
        )
    page = methods_page(fields)
    name = Path(fields.mapping("data").text("path") or "data").name
    heading = title or f"{len(page.rows)} methods on {name}"
    heads = [head for head, _, _ in COST_HEADS]
    return write_page(
        Path(destination), render_page("methods.html.j2", title=heading, page=page, cost_heads=heads)
    )


def methods_page(fields: Fields) -> MethodsPage:
    """What the page shows.

    Args:
        fields: The contents of `comparison.json`.

    Raises:
        RunError: If a value is of the wrong type.
    """
    methods = fields.objects("methods")
    baseline = fields.text("baseline") or ""
    ends = [
        value
        for method in methods
        for key in ("mean", "low", "high")
        if (value := method.mapping("accuracy").number(key)) is not None
    ]
    rows = tuple(method_row(method, index, baseline, ends) for index, method in enumerate(methods))
    protocol = fields.mapping("protocol")
    seeds = tuple(str(seed) for seed in protocol.values.get("seeds") or ())
    scatters = method_scatters(methods)
    return MethodsPage(
        lead=_lead(fields, methods, len(seeds)),
        verdict=_verdict(methods),
        baseline=baseline,
        has_rank=any(row.rank.value for row in rows),
        rows=rows,
        scatters=scatters,
        has_front=any(chart.front for chart in scatters),
        candidate_count=max((len(row.candidates) for row in rows), default=0),
        is_wide=any(len(row.candidates) > MOST_COLUMNS for row in rows),
        choice=_choice(protocol, rows),
        seeds=seeds,
        details=tuple(
            method_details(method, index, row.tone, row.accuracy.words)
            for index, (method, row) in enumerate(zip(methods, rows, strict=True))
        ),
        folder=fields.text("folder") or "the folder of the comparison",
        failures=tuple(failure for method in methods for failure in _failures(method)),
        command=fields.text("command"),
        facts=_facts(fields),
        settings=tuple((name, shown(value)) for name, value in fields.mapping("settings").values.items()),
    )


def _lead(fields: Fields, methods: Sequence[Fields], seeds: int) -> str:
    tested = [entry.integer("n") for method in methods for entry in method.objects("seeds")]
    images = next((units.count(n) for n in tested if n is not None), "the")
    over = (
        f"Mean over {seeds} seeds with its 95\u00a0% interval"
        if seeds > 1
        else "One seed with its 95\u00a0% interval"
    )
    shots = fields.mapping("data").integer("shots")
    few = f" Trained on {shots} images of each class." if shots is not None else ""
    return (
        f"Accuracy on {images} test images. {over}; an interval marked (images) is over the test images, "
        f"where seeds cannot tell.{few} Backbone {fields.text('model') or 'not recorded'}."
    )


def _verdict(methods: Sequence[Fields]) -> str:
    best = [method.text("method") for method in methods if method.values.get("best") is True]
    if best:
        return (
            f"{best[0]} is best: its paired difference to the runner-up is above 0 by its 95\u00a0% interval."
        )
    return "No method is marked as best: the paired 95\u00a0% interval between the two with the highest means holds 0."


def _choice(protocol: Fields, rows: Sequence[MethodRow]) -> str:
    kind, _, count = (protocol.text("search") or "").partition(":")
    search = _SEARCH.get(kind, "the candidates below").replace("N", count or "some")
    if not any(row.candidates for row in rows):
        return f"Nothing was searched for: every method took {search}."
    final = (
        "trained again on training and validation images"
        if protocol.values.get("refit") is True
        else "trained again on the same training images"
    )
    return (
        f"Tried for every method: {search}; one seed each, with the test split sealed. The one with the highest "
        f"validation accuracy was {final} with every seed, and each of these runs opened the test split once."
    )


def method_scatters(methods: Sequence[Fields]) -> tuple[Scatter, ...]:
    """Accuracy against each cost, the Pareto front marked.

    Args:
        methods: What a JSON file holds of each method.
    """
    charts = []
    for head, key, show in COST_HEADS:
        points = []
        for index, method in enumerate(methods):
            accuracy, cost = method.mapping("accuracy"), method.mapping("costs").number(key)
            mean, low, high = (accuracy.number(name) for name in ("mean", "low", "high"))
            if mean is not None and cost is not None:
                more = chosen_words(method)
                label = method.text("method") or "unknown method"
                points.append(ScatterPoint(label, index, cost, mean, low, high, more))
        words = "bytes on disk" if key == "adapter_bytes" else head[:1].lower() + head[1:]
        shown = _short_seconds if show is units.seconds else show
        charts.append(accuracy_scatter(f"Accuracy against {words}", points, words, shown, with_front=True))
    return tuple(chart for chart in charts if chart)


def _failures(method: Fields) -> list[Failure]:
    name, found = method.text("method") or "unknown method", []
    for entry in method.objects("candidates"):
        if error := entry.text("error"):
            words = f"{entry.text('method') or name}, choosing, learning rate {shown(entry.number('lr'))}"
            found.append(Failure(words, error, entry.text("file") or ""))
    for entry in method.objects("seeds"):
        if error := entry.text("error"):
            found.append(Failure(f"{name}, seed {entry.integer('seed')}", error, entry.text("file") or ""))
    return found


def _facts(fields: Fields) -> tuple[tuple[str, str], ...]:
    data, protocol = fields.mapping("data"), fields.mapping("protocol")
    sizes = data.mapping("sizes").values
    images = ", ".join(f"{count:,} {units.split_words(split)}" for split, count in sizes.items())
    facts = [
        ("Data", data.text("path") or "not recorded"),
        ("Images", f"{images}, {shown(data.integer('classes'))} classes"),
        ("Backbone", fields.text("model") or "not recorded"),
        ("Protocol", protocol.text("name") or "not recorded"),
        ("Folder", fields.text("folder") or "not recorded"),
        ("Versions", pairs_text(fields.mapping("versions"))),
    ]
    return (*facts, *(("Machine", pairs_text(machine)) for machine in fields.objects("machines")))


def pairs_text(fields: Fields) -> str:
    """Names and values on one line, those without a value left out.

    Args:
        fields: For instance the versions.
    """
    return ", ".join(f"{name} {shown(value)}" for name, value in fields.values.items() if value)


def shown(value: object) -> str:
    """A setting's value in words.

    Args:
        value: A JSON value.
    """
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value)
