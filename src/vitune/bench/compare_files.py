"""A comparison as files: JSON with everything, CSV, Parquet, Markdown, and the HTML report drawn from the JSON."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from vitune.bench.compare import TRIALS, CompareResult
from vitune.bench.method_record import method_record
from vitune.bench.parquet_file import RESULTS_FILE, write_trials
from vitune.bench.summary import Estimate
from vitune.bench.table import Column, aggregate, markdown
from vitune.durable import replace_file
from vitune.report import write_methods_report
from vitune.tasks.run_directory import write_json

FORMAT = 1
JSON_FILE, CSV_FILE, MARKDOWN_FILE, REPORT_FILE = (
    "comparison.json",
    "comparison.csv",
    "comparison.md",
    "report.html",
)
COLUMNS = (
    Column("test accuracy, %", "metrics.test.accuracy", 100, 1),
    Column("learning rate", "lr", 1, 5),
    Column("trained parameters", "costs.trained_parameters", 1, 0),
    Column("saved activations, MB", "costs.saved_activation_bytes", 1e-6, 1),
    Column("adapter file, kB", "costs.adapter_bytes", 1e-3, 0),
    Column("training time, s", "train_seconds", 1, 1),
)
_CSV_COSTS = (
    "trained_parameters",
    "head_parameters",
    "adapter_bytes",
    "saved_activation_bytes",
    "peak_bytes",
    "train_seconds",
    "step_seconds",
    "inference_seconds",
)


def write_comparison(result: CompareResult) -> Path:
    """Write all files of a comparison into its folder, each replaced in one step.

    Args:
        result: What it found.

    Returns:
        The HTML report.

    Raises:
        RunError: If a file cannot be written.
    """
    out = result.plan.request.out
    write_json(out / JSON_FILE, as_dict(result))
    _write(out / CSV_FILE, csv_text(result))
    _write(out / MARKDOWN_FILE, markdown_text(result))
    write_parquet(result)
    return write_methods_report(out / JSON_FILE, out / REPORT_FILE)


def write_parquet(result: CompareResult) -> bool:
    """Write every trial of a comparison as a row of a Parquet table; whether pyarrow is there to do it.

    Beside what `write_trials` writes: `method` as the comparison names it, and whether the trial was `chosen`: final
    trials and the candidate that they follow.

    Args:
        result: What the comparison found.

    Raises:
        RunError: If the file cannot be written.
    """
    outcomes, more = [], {}
    for case in result.cases:
        for outcome in (*case.selection, *case.final):
            trial = outcome.trial
            chosen = bool(case.final) and (trial.methods, dict(trial.settings)) == (
                case.methods,
                dict(case.chosen),
            )
            more[trial.id] = {"method": case.case.methods, "chosen": chosen}
            outcomes.append(outcome)
    return write_trials(result.plan.request.out / RESULTS_FILE, outcomes, more=more)


def as_dict(result: CompareResult) -> dict[str, Any]:
    """A comparison as JSON values; paths are relative to its folder.

    Args:
        result: What it found.
    """
    plan, request = result.plan, result.plan.request
    trials = [
        o.result for case in result.cases for o in (*case.selection, *case.final) if o.result is not None
    ]
    return {
        "format": FORMAT,
        "data": {
            "path": str(request.data.path),
            "kind": plan.data["kind"],
            "classes": len(plan.data["class_names"]),
            "sizes": plan.data["sizes"],
            "shots": request.data.shots,
        },
        "model": plan.model,
        "baseline": request.baseline,
        "protocol": {
            "name": plan.protocol.name,
            "seeds": list(plan.protocol.seeds),
            "select_seed": plan.protocol.select_seed,
            "search": "given" if request.rates is not None else request.search,
            "refit": plan.protocol.refit,
        },
        "settings": dict(plan.protocol.settings),
        "command": request.command,
        "folder": str(request.out),
        "versions": trials[0]["versions"],
        "machines": _different(trial["machine"] for trial in trials),
        "methods": [method_record(summary, request.out, request.out / TRIALS) for summary in result.methods],
    }


def csv_text(result: CompareResult) -> str:
    """One line per method; shares and raw counts, unlike the tables for reading.

    Args:
        result: What it found.
    """
    rows = []
    for summary in result.methods:
        ends = {"accuracy": summary.accuracy, "difference": summary.difference}
        row: dict[str, Any] = {"method": summary.result.case.methods, "best": int(summary.best)}
        for name, estimate in ends.items():
            for part in ("mean", "low", "high", "over", "seeds"):
                row[f"{name}_{part}"] = None if estimate is None else getattr(estimate, part)
        row["rank"] = summary.rank
        row["failed"] = sum(o.error is not None for o in (*summary.result.selection, *summary.result.final))
        row["lr"] = summary.result.chosen.get("lr")
        row["chosen_method"] = summary.result.methods if summary.result.final else None
        rows.append({**row, **{name: summary.costs.get(name) for name in _CSV_COSTS}})
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def markdown_text(result: CompareResult) -> str:
    """A page with the table, every row linked to the trials it was made from.

    Args:
        result: What it found.
    """
    plan, request = result.plan, result.plan.request
    finals = [outcome for case in result.cases for outcome in case.final]
    # Differences and ranks belong to the comparison and not to single files, so they have a table of their own.
    lines = [
        f"| method | difference to {request.baseline}, points | rank | best |",
        "|---|---:|---:|---|",
    ]
    for summary in result.methods:
        name = summary.result.case.methods.replace("|", "\\|")
        rank = "-" if summary.rank is None else f"{summary.rank:.2f}"
        lines.append(
            f"| {name} | {_points(summary.difference)} | {rank} | {'best' if summary.best else ''} |"
        )
    command = f"\n    {request.command}\n" if request.command else ""
    failed = [case for case in result.cases if not case.final]
    return f"""# Comparison on {request.data.path.name}

Backbone `{plan.model}`. Mean over {request.seeds} seed{"s" * (request.seeds > 1)} +- half width of the 95 % t-interval;
the links lead to the JSON of each seed. Settings were chosen on validation images; each final run opened the test split
once. Differences are paired by seed, with their 95 % interval.
{command}
{markdown(aggregate(finals, COLUMNS), COLUMNS, request.out, heads=("methods",))}
{chr(10).join(lines)}
{"".join(f"{chr(10)}{case.case.methods}: every candidate failed.{chr(10)}" for case in failed)}"""


def _points(estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    text = f"{100 * estimate.mean:+.1f}"
    if estimate.low is None or estimate.high is None:
        return text
    return f"{text} ({100 * estimate.low:+.1f} to {100 * estimate.high:+.1f}, over {estimate.over})"


def _different(values: Any) -> list[Any]:
    found: list[Any] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found


def _write(path: Path, text: str) -> None:
    replace_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
