"""What the page shows of several runs beside each other, ready for templates/comparison.html.j2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vitune.measure.intervals import paired_interval
from vitune.report import units
from vitune.report.charts import Chart, Series, line_chart, second_mark
from vitune.report.costs import CostGroup, costs_side_by_side
from vitune.report.record import Metric, Predictions, RunRecord
from vitune.report.run_section import RunSection, interval_words
from vitune.report.scatter import Scatter, ScatterPoint, accuracy_scatter


@dataclass(frozen=True)
class ComparisonRow:
    """One run in the table.

    `highest` marks the highest accuracy on a split that all share, if it can be told from the second highest;
    `metric` places its interval on a line.
    """

    section: RunSection
    accuracy: str
    interval: str
    measured_on: str
    metric: Metric | None
    highest: bool
    trained: str
    disk: str
    activations: str
    seconds: str


@dataclass(frozen=True)
class Comparison:
    """The table, the scatters, the curves over each other and the costs side by side.

    Attributes:
        rows: The table.
        same: What the accuracies of all rows were measured on, None where that differs.
        low: Lowest accuracy or end of an interval.
        high: Highest accuracy or end of an interval.
        notes: Why the numbers may not be comparable.
        scatters: Accuracy against costs.
        curves: Curves of all runs in one chart each.
        costs: Costs side by side.
    """

    rows: tuple[ComparisonRow, ...]
    same: str | None
    low: float
    high: float
    notes: tuple[str, ...]
    scatters: tuple[Scatter, ...]
    curves: tuple[Chart, ...]
    costs: tuple[CostGroup, ...]

    @property
    def longest_curve(self) -> Chart:
        """The chart with the most lines: its legend serves all."""
        return max(self.curves, key=lambda chart: len(chart.lines))


def run_labels(runs: Sequence[RunRecord]) -> list[str]:
    """A name for each run that no other has: its own, else with its method, else with a number."""
    labels = [run.name for run in runs]
    if len(set(labels)) < len(labels):
        labels = [f"{run.name} ({run.method})" for run in runs]
    seen: dict[str, int] = {}
    numbered = []
    for label in labels:
        seen[label] = seen.get(label, 0) + 1
        numbered.append(label if seen[label] == 1 else f"{label} #{seen[label]}")
    return numbered


def comparison(sections: Sequence[RunSection]) -> Comparison:
    """Put runs beside each other.

    Args:
        sections: The runs, at least two.
    """
    split = _common_split([section.run for section in sections])
    metrics = [_metric(section.run, split) for section in sections]
    highest = clearly_highest([section.run for section in sections], split) if split else None
    bounds = [v for _, m in metrics if m for v in (m.low, m.high, m.accuracy) if v is not None] or [0.0, 1.0]
    rows = tuple(
        ComparisonRow(
            section=section,
            accuracy=units.percent(metric.accuracy if metric else None),
            interval=interval_words(metric) if metric else units.NOT_MEASURED,
            measured_on=_measured_on(name, metric),
            metric=metric,
            highest=section.run is highest,
            trained=units.count(section.run.costs.trained_parameters),
            disk=units.size(section.run.costs.adapter_bytes),
            activations=units.size(section.run.costs.saved_activation_bytes),
            seconds=units.seconds(section.run.log.seconds if section.run.log else None),
        )
        for section, (name, metric) in zip(sections, metrics, strict=True)
    )
    measured = {row.measured_on for row in rows}
    return Comparison(
        rows=rows,
        same=measured.pop() if len(measured) == 1 else None,
        low=min(bounds),
        high=max(bounds),
        notes=_notes(sections, split),
        scatters=_scatters(sections, metrics),
        curves=_curves(sections),
        costs=costs_side_by_side([(section.label, section.tone, section.run) for section in sections]),
    )


def clearly_highest(runs: Sequence[RunRecord], split: str) -> RunRecord | None:
    """The run of the highest accuracy, if its difference to the runner-up is above 0 by its 95 % interval.

    The difference is paired image by image where both runs say what they predicted for the same images; else the
    intervals of the two accuracies must not overlap, which is asking for more.

    Args:
        runs: The runs.
        split: A split that all were evaluated on.
    """
    known = sorted(
        (run for run in runs if run.metrics[split].accuracy is not None),
        key=lambda run: -(run.metrics[split].accuracy or 0.0),
    )
    if len(known) < 2:
        return None
    first, second = known[:2]
    low = _lowest_lead(first, second, split)
    return first if low is not None and low > 0 else None


def _lowest_lead(first: RunRecord, second: RunRecord, split: str) -> float | None:
    one, other = first.predictions, second.predictions
    if one is not None and other is not None and len(one.label) and _same_images(one, other, split):
        right, right_too = one.predicted == one.label, other.predicted == other.label
        only_first, only_second = int((right & ~right_too).sum()), int((right_too & ~right).sum())
        return paired_interval(only_first, only_second, len(one.label))[0]
    low, high = first.metrics[split].low, second.metrics[split].high
    return None if low is None or high is None else low - high


def _same_images(one: Predictions, other: Predictions, split: str) -> bool:
    same_split = one.split == other.split == split
    return same_split and one.name == other.name and np.array_equal(one.label, other.label)


def _common_split(runs: Sequence[RunRecord]) -> str | None:
    """The split that every run was evaluated on, test before validation; None where there is none."""
    for split in ("test", "val"):
        if all(split in run.metrics for run in runs):
            return split
    return None


def _metric(run: RunRecord, split: str | None) -> tuple[str | None, Metric | None]:
    if split is not None:
        return split, run.metrics[split]
    headline = run.headline()
    return headline if headline else (None, None)


def _measured_on(split: str | None, metric: Metric | None) -> str:
    if split is None or metric is None:
        return units.NOT_MEASURED
    number = "" if metric.n is None else f"{units.count(metric.n)} "
    return f"{number}{units.split_words(split)} images"


def _notes(sections: Sequence[RunSection], split: str | None) -> tuple[str, ...]:
    """Why numbers in one table may not be comparable."""
    runs = [section.run for section in sections]
    notes: list[str] = []
    if split is None:
        notes.append("The runs were not evaluated on the same split: compare their accuracies with care.")
    known = [run for run in runs if split is not None and run.metrics[split].accuracy is not None]
    if split is not None and len(known) > 1 and clearly_highest(runs, split) is None:
        notes.append(
            "No run is marked as the highest: the two with the highest accuracies cannot be told apart on these images."
        )
    for words, values in (
        ("data", {str(run.data.get("path")) for run in runs}),
        ("backbones", {str(run.model.get("name")) for run in runs}),
        ("protocols", {str(run.protocol) for run in runs}),
    ):
        if len(values) > 1:
            notes.append(f"The runs used different {words}.")
    return tuple(notes)


def _scatters(
    sections: Sequence[RunSection], metrics: Sequence[tuple[str | None, Metric | None]]
) -> tuple[Scatter, ...]:
    charts = []
    for title, key, words, show in (
        ("Accuracy against trained parameters", "trained_parameters", "trained parameters", _short_count),
        ("Accuracy against saved activations", "saved_activation_bytes", "saved activations", units.size),
    ):
        points = []
        for section, (_, metric) in zip(sections, metrics, strict=True):
            cost = getattr(section.run.costs, key)
            if metric and metric.accuracy is not None and cost is not None:
                low, high = metric.low, metric.high
                points.append(ScatterPoint(section.label, section.tone, cost, metric.accuracy, low, high))
        charts.append(accuracy_scatter(title, points, words, show))
    return tuple(chart for chart in charts if chart)


def _short_count(value: float | None) -> str:
    return units.NOT_MEASURED if value is None else units.short_count(round(value))


def _curves(sections: Sequence[RunSection]) -> tuple[Chart, ...]:
    charts = []
    for title, key, percent in (
        ("Validation accuracy", "val_accuracy", True),
        ("Validation loss", "val_loss", False),
        ("Training loss", "train_loss", False),
    ):
        series = [
            Series(
                s.label, [(e.epoch, getattr(e, key)) for e in s.run.log.epochs], s.tone, second_mark(s.tone)
            )
            for s in sections
            if s.run.log
        ]
        charts.append(line_chart(title, series, percent=percent))
    return tuple(chart for chart in charts if chart)
