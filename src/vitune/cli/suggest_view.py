"""A suggestion as a user reads it: the table, the reasons with their commands, and how sure all that is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vitune.cli.console import console, print_indented, table
from vitune.report.units import count, short_count, size

if TYPE_CHECKING:
    from rich.table import Table

    from vitune.tasks.suggest import Costs, Suggestion
    from vitune.tasks.suggest.evidence import Standing

_NUMBERS = ("step", "training", "trained", "disk", "infer", "trials", "papers")


def print_suggestion(answer: Suggestion) -> None:
    """Print a suggestion.

    Args:
        answer: What `suggest` found.
    """
    out = console()
    facts = answer.data
    out.print(
        f"{facts['path']}: {count(facts['train_images'])} training images, {facts['classes']} classes; {answer.model}"
    )
    if answer.ranked:
        out.print(_table(answer))
        out.print(
            "First the one to try first. step: forecast of the memory of a training step, the framework not counted. "
            "training: forecast of the whole, * where steps were timed. infer: how much longer a prediction takes. "
            "trials: points over a linear probe in trials of ours. papers: the same as published, on VTAB-1k with "
            "ViT-B/16; weaker."
        )
        out.print("\nWhy, and what to run")
        for one in answer.ranked:
            out.print(f"{one.rank}. {one.method}: {one.reason}")
            _command(one.command)
    else:
        out.print("\nNothing fits.")
    if answer.excluded:
        out.print("\nDoes not fit")
        for left in answer.excluded:
            out.print(f"{left.method}: {'; '.join(left.breaks)}")
            found = "no smaller setting of it fits" if left.nearest is None else f"fits: {left.nearest}"
            print_indented(out, found)
            if left.command is not None:
                _command(left.command)
    if answer.unsuited:
        out.print("\nNot for this backbone")
        for method, reason in answer.unsuited.items():
            out.print(reason if reason.startswith(f"{method}:") else f"{method}: {reason}")
    _sentences("\nHow sure", answer.sure)
    _sentences("\nNot measured", answer.not_measured)


def _table(answer: Suggestion) -> Table:
    made = table("method", *_NUMBERS, right=_NUMBERS, whole=("method",))
    for one in answer.ranked:
        made.add_row(one.method, *_cells(one.costs), *_gains(one.standing))
    return made


def _cells(costs: Costs) -> tuple[str, ...]:
    longer = costs.inference_overhead
    return (
        size(costs.step_bytes),
        _short_time(costs.train_seconds) + ("*" if costs.timed else " "),
        short_count(costs.trained_parameters),
        size(costs.adapter_bytes),
        "+0 %" if longer < 0.005 else f"+{100 * longer:.0f} %",
    )


def _short_time(value: float) -> str:
    """A duration in at most seven letters."""
    for unit, length in (("h", 3600), ("min", 60)):
        if value >= 0.95 * length:
            return f"{value / length:.1f} {unit}"
    return f"{value:.0f} s"


def _gains(found: Standing) -> tuple[str, str]:
    trials = "-"
    if found.gain is not None:
        half = "" if found.half is None else f"\u00b1{100 * found.half:.1f}"
        trials = f"{100 * found.gain:+.1f}{half}"
    return trials, "-" if found.published is None else f"{100 * found.published.gain:+.1f}"


def _command(command: str) -> None:
    """On one line however long, so that it can be copied."""
    console().print(f"   {command}", soft_wrap=True)


def _sentences(title: str, sentences: tuple[str, ...]) -> None:
    out = console()
    out.print(title)
    for sentence in sentences:
        print_indented(out, sentence)
