"""What the numbers of the project's table say, in sentences: computed, so that they change with the numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.local_trials import BASELINE, Finished
from vitune.bench.suite_summary import MeasuredRow, RowSummary, SuiteSummary, summarise_suite
from vitune.bench.summary import Estimate, Score, mean_costs, paired_difference

# What a method is made of, where it adds one thing to another.
BUILT_ON: Mapping[str, str] = {
    "full,alast": "full",
    "suffix": "full",
    "lora,velora": "lora",
    "bi_lora": "lora",
    "bi_adaptformer": "adaptformer",
    "dyt": "adaptformer",
    "e2vpt": "vpt",
}


@dataclass(frozen=True)
class Standing:
    """The methods of a task, sorted by what their paired differences to one of them say.

    Attributes:
        above: Those whose interval is above 0.
        below: Those whose interval is below 0.
        open: The others.
    """

    above: tuple[str, ...]
    below: tuple[str, ...]
    open: tuple[str, ...]


def summarise_finished(found: Finished) -> SuiteSummary:
    """The table with its statistics, as `vitune bench` computes them.

    Args:
        found: The trials.
    """
    rows = [MeasuredRow(task, "", task, found.scores(task), {}) for task in found.tasks]
    reference = reference_task(found)
    costs = {method: [mean_costs(found.contents(reference, method))] for method in found.methods}
    return summarise_suite(found.methods, BASELINE, rows, costs)


def reference_task(found: Finished) -> str:
    """The task whose costs are shown: the first of those that most methods have.

    Args:
        found: The trials.
    """
    counts = {task: sum((task, method) in found.results for method in found.methods) for task in found.tasks}
    return max(counts, key=lambda task: counts[task])


def standing(scores: Mapping[str, Mapping[int, Score]], beside: str) -> Standing:
    """Sort methods by their paired differences to one of them; that one is left out.

    Args:
        scores: By method and seed.
        beside: The method that the others are compared with.
    """
    groups: dict[str, list[str]] = {"above": [], "below": [], "open": []}
    for method, of_seed in scores.items():
        if method == beside:
            continue
        found = paired_difference(of_seed, scores.get(beside, {}))
        groups[side(found)].append(method)
    return Standing(*(tuple(groups[name]) for name in ("above", "below", "open")))


def side(difference: Estimate | None) -> str:
    """Where a difference lies by its interval: "above" 0, "below" it, or "open".

    Args:
        difference: With its interval; None is open.
    """
    if difference is None or difference.low is None or difference.high is None:
        return "open"
    return "above" if difference.low > 0 else "below" if difference.high < 0 else "open"


def task_sentences(row: RowSummary, found: Finished) -> str:
    """Which method has the highest mean on a task, what it can be told from, and how all stand beside the probe.

    Args:
        row: The task.
        found: The trials.
    """
    scores = found.scores(row.row.task)
    ranked = sorted(
        ((estimate.mean, method) for method, estimate in row.accuracy.items() if estimate is not None),
        key=lambda entry: -entry[0],
    )
    if len(ranked) < 2:
        return f"**{row.row.name}**: fewer than two methods have been run, so nothing can be said."
    mean, first = ranked[0]
    beside = standing(scores, first)
    if not beside.open:
        lead = "and can be told from every other method"
    else:
        lead = f"and cannot be told from {names(beside.open)}"
    text = f"**{row.row.name}**: {code(first)} has the highest mean, {100 * mean:.1f} %, {lead}."
    if BASELINE not in scores:
        return f"{text} The linear probe has not been run."
    probe = standing(scores, BASELINE)
    parts = [
        f"{word} {names(group)}"
        for word, group in (("above it", probe.above), ("below it", probe.below), ("open", probe.open))
        if group
    ]
    return f"{text} Beside the linear probe: {'; '.join(parts)}."


def verdicts(summary: SuiteSummary) -> list[str]:
    """What wins, over all tasks that have been run.

    Args:
        summary: The table.
    """
    tasks = len(summary.rows)
    won = [(row.row.name, row.best) for row in summary.rows if row.best is not None]
    lines = []
    if won:
        text = ", ".join(f"{code(best)} on {name}" for name, best in won)
        lines.append(
            f"On {len(won)} of {tasks} tasks a single method wins, its lead over the runner-up being above 0 by its "
            f"95 % interval: {text}."
        )
    if len(won) < tasks:
        lines.append(
            f"On {tasks - len(won)} of {tasks} tasks no single method wins: the lead of the highest mean over the "
            "runner-up is within its 95 % interval."
        )
    sides: dict[str, list[str]] = {"above": [], "below": []}
    mixed: list[str] = []
    for method in summary.methods:
        on = [side(row.difference[method]) for row in summary.rows if row.difference[method] is not None]
        if method == BASELINE or not on:
            continue
        for name, group in sides.items():
            if len(set(on)) == 1 and on[0] == name:
                group.append(f"{code(method)} ({len(on)} of {tasks})" if len(on) < tasks else code(method))
        if {"above", "below"} <= set(on):
            mixed.append(code(method))
    if sides["above"]:
        lines.append(f"Above the linear probe on every task they were run on: {', '.join(sides['above'])}.")
    if sides["below"]:
        lines.append(f"Below the linear probe on every task they were run on: {', '.join(sides['below'])}.")
    if mixed:
        lines.append(f"Above the linear probe on some tasks and below it on others: {', '.join(mixed)}.")
    return lines


def troubles(summary: SuiteSummary, found: Finished) -> list[str]:
    """What does not work: not above the probe, no better than what a method is built on, or failed.

    Args:
        summary: The table.
        found: The trials.
    """
    lines = []
    for method in summary.methods:
        worse = [row.row.name for row in summary.rows if side(row.difference[method]) == "below"]
        if worse:
            lines.append(f"{code(method)} is below the linear probe on {', '.join(worse)}.")
        level = [
            row.row.name
            for row in summary.rows
            if row.difference[method] is not None and side(row.difference[method]) == "open"
        ]
        if level:
            lines.append(f"{code(method)} cannot be told from the linear probe on {', '.join(level)}.")
    for method, base in BUILT_ON.items():
        on = {task: found.scores(task) for task in found.tasks}
        both = {task: scores for task, scores in on.items() if method in scores and base in scores}
        if not both:
            continue
        sides = [side(paired_difference(scores[method], scores[base])) for scores in both.values()]
        if "above" not in sides:
            lines.append(
                f"{code(method)} is above {code(base)}, which it is built on, on none of {len(both)} tasks: below on "
                f"{sides.count('below')}, open on {sides.count('open')}."
            )
    failed: dict[tuple[str, str], list[Mapping]] = {}
    for failure in found.failures:
        key = (str(failure["task"]), failure["failed"]["methods"])
        failed.setdefault(key, []).append(failure)
    for (task, method), failures in sorted(failed.items()):
        many = f"{len(failures)} trial{'s' * (len(failures) > 1)} of {code(method)} on {task} failed"
        lines.append(f"{many}, the first with: {' '.join(str(failures[0]['error']['message']).split())}")
    return lines or ["By these intervals nothing, and no trial failed."]


def code(method: str) -> str:
    """A method as the page shows it.

    Args:
        method: As text.
    """
    return f"`{method}`"


def names(methods: Sequence[str] | Iterable[str]) -> str:
    """Several methods as the page shows them.

    Args:
        methods: As text.
    """
    return ", ".join(map(code, methods))
