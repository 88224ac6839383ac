"""A suite's results as files: JSON with everything, CSV, Parquet, Markdown, and the HTML report drawn from the JSON."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vitune.bench import compare_files
from vitune.bench.parquet_file import RESULTS_FILE, write_trials
from vitune.bench.suite import SUITE_FILE, SuiteResult, TaskResult
from vitune.bench.suite_markdown import suite_markdown
from vitune.bench.suite_summary import OF_GROUPS, OVER_TASKS, SuiteSummary
from vitune.bench.summary import Estimate
from vitune.bench.trials import TrialOutcome
from vitune.durable import replace_file
from vitune.errors import RunError
from vitune.report.suite_page import write_suite_report
from vitune.suites import load_published
from vitune.tasks.run_directory import write_json

FORMAT = 1
CSV_FILE, MARKDOWN_FILE, REPORT_FILE = "suite.csv", "suite.md", "report.html"
_CSV_COSTS = ("trained_parameters", "adapter_bytes", "saved_activation_bytes", "peak_bytes", "train_seconds")


def write_suite(result: SuiteResult) -> Path:
    """Write all files of a suite into its folder, each replaced in one step, and those of each task's comparison.

    Args:
        result: What it found.

    Returns:
        The HTML report.

    Raises:
        RunError: If a file cannot be written.
    """
    out = result.plan.request.out
    for task in result.tasks:
        if has_results(task):
            compare_files.write_comparison(task.comparison)
    values = as_dict(result)
    write_json(out / SUITE_FILE, values)
    _write(out / CSV_FILE, csv_text(result.summary, result.tasks))
    _write(out / MARKDOWN_FILE, suite_markdown(values))
    outcomes = {
        outcome.trial.id: (task.task, outcome) for task in result.tasks for outcome in _outcomes(task)
    }
    more = {name: {"task": task.name, "group": task.group} for name, (task, _) in outcomes.items()}
    write_trials(out / RESULTS_FILE, [outcome for _, outcome in outcomes.values()], more=more)
    return write_suite_report(out / SUITE_FILE, out / REPORT_FILE)


def _outcomes(task: TaskResult) -> list[TrialOutcome]:
    """Every trial of a task, and every test of its runs on a further set."""
    found = [o for case in task.comparison.cases for o in (*case.selection, *case.final)]
    return found + [o for evaluated in task.evaluated for o in evaluated.outcomes]


def has_results(task: TaskResult) -> bool:
    """Whether any final trial of the task finished.

    Args:
        task: What was found on it.
    """
    return any(outcome.result is not None for case in task.comparison.cases for outcome in case.final)


def as_dict(result: SuiteResult) -> dict[str, Any]:
    """A suite's results as JSON values; paths are relative to its folder.

    Args:
        result: What it found.
    """
    request, summary = result.plan.request, result.summary
    suite, protocol = request.suite, request.chosen_protocol()
    comparisons = {
        task.task.name: compare_files.as_dict(task.comparison) for task in result.tasks if has_results(task)
    }
    first = next(iter(comparisons.values()))
    headline = headline_name(summary, suite.headline)
    return {
        "format": FORMAT,
        "suite": {
            "name": suite.name,
            "title": suite.title,
            "source": suite.source,
            "about": suite.about,
            "protocol": protocol.name,
            "protocol_title": protocol.title,
            "tasks": len(suite.tasks),
            "changed": {**request.data, **request.training},
        },
        "headline": headline,
        "model": result.plan.tasks[0].plan.model,
        "baseline": summary.baseline,
        "protocol": first["protocol"],
        "settings": _shared([comparison["settings"] for comparison in comparisons.values()]),
        "command": request.command,
        "root": str(request.root),
        "folder": str(request.out),
        "versions": first["versions"],
        "machines": list(
            {
                json.dumps(machine, sort_keys=True): machine
                for comparison in comparisons.values()
                for machine in comparison["machines"]
            }.values()
        ),
        "methods": _methods(summary, headline),
        "means": [
            {
                "name": mean.name,
                "weights": dict(mean.weights),
                "best": mean.best,
                "accuracy": _estimates(mean.accuracy),
                "difference": _estimates(mean.difference),
            }
            for mean in summary.means
        ],
        "rows": [
            {
                "name": row.row.name,
                "group": row.row.group,
                "task": row.row.task,
                "best": row.best,
                "accuracy": _estimates(row.accuracy),
                "difference": _estimates(row.difference),
                "rank": dict(row.rank),
                "extra": {method: dict(values) for method, values in row.row.extra.items()},
            }
            for row in summary.rows
        ],
        "comparisons": {name: _trimmed(comparison) for name, comparison in comparisons.items()},
        "failures": [failure for task in result.tasks for failure in _failures(task, request.out)],
        "published": [asdict(row) for row in load_published(suite.name)],
    }


def headline_name(summary: SuiteSummary, wanted: str) -> str:
    """The mean that sums the suite up: that of its groups where it says so and they are there.

    Args:
        summary: What was found.
        wanted: "groups" or "tasks".
    """
    names = [mean.name for mean in summary.means]
    return OF_GROUPS if wanted == "groups" and OF_GROUPS in names else OVER_TASKS


def csv_text(summary: SuiteSummary, tasks: tuple[TaskResult, ...]) -> str:
    """One line per method and row, a row being a task, a further test set, or a mean; shares and raw counts.

    Args:
        summary: What was found.
        tasks: The tasks.
    """
    found = {
        (task.task.name, method.result.case.methods): method
        for task in tasks
        for method in task.comparison.methods
    }
    rows: list[dict[str, Any]] = []
    for row in summary.rows:
        kind = "task" if row.row.name == row.row.task else "evaluation"
        for name in summary.methods:
            method = found[row.row.task, name]
            line = {"kind": kind, "name": row.row.name, "group": row.row.group, "method": name}
            line |= _parts("accuracy", row.accuracy[name]) | _parts("difference", row.difference[name])
            line |= {"rank": row.rank.get(name), "best": int(row.best == name)}
            line |= {"lr": method.result.chosen.get("lr")}
            rows.append(line | {cost: method.costs.get(cost) for cost in _CSV_COSTS})
    for mean in summary.means:
        for name in summary.methods:
            line = {"kind": "mean", "name": mean.name, "group": "", "method": name}
            line |= _parts("accuracy", mean.accuracy[name]) | _parts("difference", mean.difference[name])
            rank = summary.rank[name] if mean.name == OVER_TASKS else None
            line |= {"rank": rank, "best": int(mean.best == name), "lr": None}
            costs = summary.costs[name] if mean.name == OVER_TASKS else {}
            rows.append(line | {cost: costs.get(cost) for cost in _CSV_COSTS})
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _parts(name: str, estimate: Estimate | None) -> dict[str, Any]:
    parts = ("mean", "low", "high", "over", "seeds")
    return {f"{name}_{part}": None if estimate is None else getattr(estimate, part) for part in parts}


def _estimates(estimates: Mapping[str, Estimate | None]) -> dict[str, Any]:
    return {name: None if found is None else asdict(found) for name, found in estimates.items()}


def _methods(summary: SuiteSummary, headline: str) -> list[dict[str, Any]]:
    """The methods as the report of a comparison has them, with the mean of the headline for their accuracy."""
    mean = next(mean for mean in summary.means if mean.name == headline)
    accuracy, difference = _estimates(mean.accuracy), _estimates(mean.difference)
    found = []
    for name in summary.methods:
        beside = summary.beside[name]
        found.append(
            {
                "method": name,
                "accuracy": accuracy[name],
                "difference": difference[name],
                "rank": summary.rank[name],
                "best": mean.best == name,
                "costs": dict(summary.costs[name]),
                "over_tasks": None if beside is None else asdict(beside),
            }
        )
    return found


def _shared(settings: list[dict[str, Any]]) -> dict[str, Any]:
    """The settings that all tasks have in common."""
    first, *others = settings
    return {
        name: value
        for name, value in first.items()
        if all(name in other and other[name] == value for other in others)
    }


def _trimmed(comparison: dict[str, Any]) -> dict[str, Any]:
    """What the page needs of a task's comparison; all of it is in its own folder."""
    return {key: comparison[key] for key in ("data", "protocol", "methods")}


def _failures(task: TaskResult, out: Path) -> list[dict[str, str]]:
    found = [
        (case.case.methods, outcome)
        for case in task.comparison.cases
        for outcome in (*case.selection, *case.final)
    ]
    found += [(outcome.trial.methods, outcome) for e in task.evaluated for outcome in e.outcomes]
    return [
        {
            "task": outcome.trial.data if outcome.trial.train_split == "none" else task.task.name,
            "method": method,
            "stage": outcome.trial.stage,
            "seed": str(outcome.trial.seed),
            "error": f"{outcome.error['type']}: {outcome.error['message']}",
            "file": Path(os.path.relpath(outcome.path, out)).as_posix(),
        }
        for method, outcome in found
        if outcome.error is not None
    ]


def _write(path: Path, text: str) -> None:
    try:
        replace_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    except OSError as error:
        raise RunError(f"'{path}' cannot be written: {error.strerror}; free the place.") from None
