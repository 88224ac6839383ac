"""What one sees of a comparison: progress of the whole and of the current trial, then the table."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from vitune.bench.compare import CompareResult, compare, make_plan
from vitune.bench.compare_files import CSV_FILE, MARKDOWN_FILE, write_comparison
from vitune.bench.compare_request import CompareRequest
from vitune.bench.parquet_file import RESULTS_FILE
from vitune.cli.console import accuracy_text, console, table
from vitune.cli.stopped import Stopped
from vitune.report.units import percent, seconds, short_count, size

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from vitune.bench import Trial, TrialOutcome
    from vitune.bench.summary import Estimate
    from vitune.training import Event


def compare_and_show(request: CompareRequest) -> None:
    """Run a comparison, write its files and print its table.

    Args:
        request: What to compare.

    Raises:
        VituneError: As `vitune.bench.compare.compare`.
        Stopped: If Ctrl-C ended it.
    """
    plan = make_plan(request)
    view = CompareView(console(news=True), plan.trials)
    try:
        with view:
            result = compare(plan, on_event=view.event, on_outcome=view.outcome)
    except KeyboardInterrupt:
        again = request.command or "the same command"
        raise Stopped(f"stopped; finished trials are in {request.out}; go on with: {again}") from None
    report = write_comparison(result)
    print_comparison(console(), result, report)


class CompareView:
    """Two live bars on a terminal, a line for each finished trial elsewhere; a context, which ends the bars.

    Args:
        out: Where to print.
        trials: How many trials there are in all.
        words: Says which trial it is; None is its method, stage and learning rate.
    """

    def __init__(self, out: Console, trials: int, words: Callable[[Trial], str] | None = None) -> None:
        self._out, self._trials = out, trials
        self._words = words or trial_words
        self._start = time.monotonic()
        self._ended = self._failed = self._found = 0
        self._own: set[str] = set()
        self._share, self._current = 0.0, ""
        self._bars: Progress | None = None

    def __enter__(self) -> CompareView:
        if self._out.is_terminal:
            self._bars = _make_bars(self._out)
            self._bars.add_task("all trials", total=self._trials, news="")
            self._bars.add_task("this trial", total=1, news="", visible=False)
            self._bars.start()
        else:
            self._out.print(f"{self._trials} trials")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def event(self, trial: Trial, event: Event) -> None:
        """Show how far the current trial is.

        Args:
            trial: Which one.
            event: What happened in it.
        """
        if trial.id not in self._own:
            self._own.add(trial.id)
            if event.kind == "submitted":  # a cluster has it; it does not say how far it is
                return
            self._share, self._current = 0.0, self._words(trial)
            self._move("starting")
        if event.kind == "progress":
            values = event.values
            self._share = values["step"] / max(1, values["steps"])
            left = values["seconds_left"]
            self._move("" if left is None else f"ETA {seconds(float(max(1, round(left))))}")

    def outcome(self, outcome: TrialOutcome) -> None:
        """Count a trial that has ended, and tell of it.

        Args:
            outcome: What became of it.
        """
        self._ended += 1
        self._share = 0.0
        if outcome.error is not None:
            self._failed += 1
            self._out.print(
                f"failed: {self._words(outcome.trial)}: {' '.join(outcome.error['message'].split())}"
            )
        if outcome.trial.id not in self._own:
            # Finished before this command was given or by another process: it says nothing of our pace.
            self._found += 1
        elif self._bars is None and outcome.result is not None:
            split, metrics = next((s, m) for s, m in outcome.result["metrics"].items() if m is not None)
            if outcome.trial.stage == "final":
                split, metrics = "test", outcome.result["metrics"]["test"]
            self._out.print(
                f"{self._ended}/{self._trials}  {self._words(outcome.trial)}  {split} {percent(metrics['accuracy'])}"
                f"  {self._eta()}".rstrip()
            )
        self._move("")

    def _eta(self) -> str:
        left = seconds_left(
            self._ended - self._found + self._share,
            self._trials - self._ended - self._share,
            time.monotonic() - self._start,
        )
        return "" if left is None else f"ETA {seconds(float(max(1, round(left))))}"

    def _move(self, news: str) -> None:
        if self._bars is None:
            return
        whole, single = self._bars.task_ids
        failed = f"  {self._failed} failed" if self._failed else ""
        self._bars.update(
            whole, completed=self._ended, news=f"{self._ended}/{self._trials}{failed}  {self._eta()}"
        )
        self._bars.update(
            single, completed=self._share, news=f"{self._current}  {news}", visible=bool(self._current)
        )


def seconds_left(done: float, left: float, elapsed: float) -> float | None:
    """How long the rest will take at the pace so far; None where there is no pace yet, or nothing left.

    Args:
        done: Trials that this command has run, with the share of the current one.
        left: Trials to go.
        elapsed: Seconds since the start.
    """
    return elapsed * left / done if done > 0 and left > 0 else None


def print_comparison(out: Console, result: CompareResult, report: Path) -> None:
    """Print the table of the methods, and where the files are.

    Args:
        out: Where to print.
        result: What the comparison found.
        report: The page.
    """
    numbers = ("rank", "trains", "saved")
    baseline = result.plan.request.baseline
    heads = ("method", "test accuracy (95 %)", f"beside {baseline}")
    made = table(*heads, *numbers, right=numbers, whole=heads[1:])
    for summary in result.methods:
        costs, found = summary.costs, summary.accuracy
        made.add_row(
            summary.result.case.methods + ("  best" if summary.best else ""),
            "failed" if found is None else accuracy_text(found.mean, found.low, found.high),
            "baseline" if summary.result.case.methods == baseline else points_text(summary.difference),
            "-" if summary.rank is None else f"{summary.rank:.2f}",
            "-" if found is None else short_count(round(costs["trained_parameters"])),
            "-" if found is None else size(costs["saved_activation_bytes"]),
        )
    out.print(made)
    out.print("'trains' counts parameters; 'saved' is what a training step keeps in memory for its gradient.")
    failed = sum(o.error is not None for case in result.cases for o in (*case.selection, *case.final))
    if failed:
        out.print(
            f"{failed} trial{'s' * (failed > 1)} failed; the report tells why, --retry-failed runs them again."
        )
    out.print(f"  open {shlex.quote(str(report))}", soft_wrap=True)
    beside = f"{CSV_FILE}, {RESULTS_FILE} and {MARKDOWN_FILE} are beside it"
    if not (report.parent / RESULTS_FILE).is_file():
        beside = f"{CSV_FILE} and {MARKDOWN_FILE} are beside it; {RESULTS_FILE} needs: pip install 'vitune[parquet]'"
    out.print(f"  {beside}", soft_wrap=True)


def points_text(estimate: Estimate | None) -> str:
    """A difference in percentage points with its interval.

    Args:
        estimate: The difference; None is a dash.
    """
    if estimate is None:
        return "-"
    text = f"{100 * estimate.mean:+.1f}"
    if estimate.low is None or estimate.high is None:
        return text
    return f"{text} ({100 * estimate.low:+.1f} to {100 * estimate.high:+.1f})"


def trial_words(trial: Trial) -> str:
    """Which trial of a comparison it is, in a few words.

    Args:
        trial: The trial.
    """
    what = "choosing" if trial.stage == "select" else f"seed {trial.seed}"
    return f"{trial.methods}  {what}  lr {trial.settings['lr']:g}"


def _make_bars(out: Console) -> Progress:
    from rich.progress import BarColumn, Progress, TextColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[news]}", markup=False),
        console=out,
        transient=True,
    )
