"""What one sees of a suite: what is there, progress over all tasks, then its tables."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from vitune.bench.suite import SuitePlan, SuiteResult, TaskResult, check_suite, plan_suite, run_suite
from vitune.bench.suite_files import CSV_FILE, MARKDOWN_FILE, headline_name, write_suite
from vitune.bench.suite_request import SuiteRequest
from vitune.bench.suite_summary import MeanSummary, RowSummary
from vitune.cli.compare_view import CompareView, points_text, trial_words
from vitune.cli.console import accuracy_text, console, table
from vitune.cli.stopped import Stopped
from vitune.errors import DataError
from vitune.report.units import short_count, size

if TYPE_CHECKING:
    from rich.console import Console

    from vitune.bench import Trial


def check_and_show(request: SuiteRequest) -> None:
    """Print for every task whether its data are there, and what is missing.

    Args:
        request: What would be run.

    Raises:
        DataError: If something is missing.
    """
    found = check_suite(request)
    made = table("task", "layout", "state", whole=("task", "layout"))
    for located in found:
        state = " ".join(located.problems) or located.note or f"there: {located.path}"
        made.add_row(located.name, located.layout, state)
    console().print(made)
    if lacking := sum(bool(located.problems) for located in found):
        raise DataError(
            f"the data of {lacking} of {len(found)} are not complete; add what the table names, or choose others "
            "with --tasks."
        )


def bench_and_show(request: SuiteRequest) -> None:
    """Run a suite, write its files and print its tables.

    Args:
        request: What to run.

    Raises:
        VituneError: As `vitune.bench.suite.plan_suite` and `run_suite`.
        Stopped: If Ctrl-C ended it.
    """
    plan = plan_suite(request)
    news = console(news=True)
    tasks = {task.plan.cases[0].data: task.task.name for task in plan.tasks}

    def words(trial: Trial) -> str:
        if "evaluated_on" in trial.settings:
            return f"{trial.data}  {trial.methods}  seed {trial.seed}"
        return f"{tasks.get(trial.data, trial.data)}  {trial_words(trial)}"

    view = CompareView(news, plan.trials, words)
    news.print(_announcement(plan))
    done = 0

    def tell(result: TaskResult) -> None:
        nonlocal done
        done += 1
        news.print(f"task {done}/{len(plan.tasks)}: {result.task.name}  {_short(result)}")

    try:
        with view:
            result = run_suite(
                plan,
                on_event=view.event,
                on_outcome=lambda task, outcome: view.outcome(outcome),
                on_task=tell,
            )
    except KeyboardInterrupt:
        again = request.command or "the same command"
        raise Stopped(f"stopped; finished trials are in {request.out}; go on with: {again}") from None
    report = write_suite(result)
    print_suite(console(), result, report)


def print_suite(out: Console, result: SuiteResult, report: Path) -> None:
    """Print the table of the methods, that of the tasks, and where the files are.

    Args:
        out: Where to print.
        result: What the suite found.
        report: The page.
    """
    summary = result.summary
    headline = headline_name(summary, result.plan.request.suite.headline)
    mean = next(mean for mean in summary.means if mean.name == headline)
    numbers = ("rank", "trains", "peak")
    heads = ("method", f"{headline} (95 %)", f"beside {summary.baseline}")
    made = table(*heads, *numbers, right=numbers, whole=heads[1:])
    for method in summary.methods:
        found, costs = mean.accuracy[method], summary.costs[method]
        rank, trained, peak = (
            summary.rank[method],
            costs.get("trained_parameters"),
            costs.get("peak_bytes"),
        )
        made.add_row(
            method + ("  best" if mean.best == method else ""),
            "not on every task" if found is None else accuracy_text(found.mean, found.low, found.high),
            "baseline" if method == summary.baseline else points_text(mean.difference[method]),
            "-" if rank is None else f"{rank:.2f}",
            "-" if trained is None else short_count(round(trained)),
            "-" if peak is None else size(peak),
        )
    out.print(made)
    out.print(
        "'trains' counts parameters, 'peak' is the forecast of memory in training; means over the tasks."
    )
    many = table("task", *summary.methods, right=summary.methods, whole=("task",))
    for row in summary.rows:
        many.add_row(row.row.name, *_cells(row, summary.methods))
    for other in summary.means:
        many.add_row(other.name, *_cells(other, summary.methods))
    out.print(many)
    out.print("Test accuracy in %; * the highest, where it can be told from the runner-up.")
    outcomes = [o for task in result.tasks for c in task.comparison.cases for o in (*c.selection, *c.final)]
    outcomes += [o for task in result.tasks for evaluated in task.evaluated for o in evaluated.outcomes]
    failed = sum(outcome.error is not None for outcome in outcomes)
    if failed:
        out.print(
            f"{failed} trial{'s' * (failed > 1)} failed; the report tells why, --retry-failed runs them again."
        )
    out.print(f"  open {shlex.quote(str(report))}", soft_wrap=True)
    out.print(f"  {CSV_FILE} and {MARKDOWN_FILE} are beside it", soft_wrap=True)


def _cells(row: RowSummary | MeanSummary, methods: tuple[str, ...]) -> list[str]:
    found = [row.accuracy[method] for method in methods]
    return [
        "-" if estimate is None else f"{100 * estimate.mean:.1f}" + ("*" if row.best == method else "")
        for method, estimate in zip(methods, found, strict=True)
    ]


def _announcement(plan: SuitePlan) -> str:
    tasks = len(plan.tasks)
    protocol = plan.request.chosen_protocol()
    return (
        f"{plan.request.suite.name}: {tasks} task{'s' * (tasks > 1)}, {len(plan.request.methods)} methods, "
        f"protocol {protocol.name}"
    )


def _short(result: TaskResult) -> str:
    found = [
        f"{m.result.case.methods} {100 * m.accuracy.mean:.1f}"
        for m in result.comparison.methods
        if m.accuracy is not None
    ]
    return ", ".join(found) or "every method failed"
