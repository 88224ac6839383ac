"""Costs as bars: of one run beside full fine-tuning, or of several runs beside each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vitune.report import units
from vitune.report.record import Costs, RunRecord


@dataclass(frozen=True)
class Kind:
    """One kind of cost: its key, its title, how it is shown, and the words for a smaller and a larger one."""

    key: str
    title: str
    show: Callable[[float | None], str]
    less: str
    more: str


KINDS = (
    Kind("trained_parameters", "Trained parameters", units.count, "fewer", "more"),
    Kind("adapter_bytes", "File on disk", units.size, "smaller", "larger"),
    Kind("saved_activation_bytes", "Saved activations", units.size, "less", "more"),
    Kind("flops_per_image", "Compute per image", units.flops, "less", "more"),
    Kind("step_seconds", "Time per training step", units.seconds, "shorter", "longer"),
    Kind("inference_seconds", "Time per prediction", units.seconds, "shorter", "longer"),
)
FULL = "full fine-tuning"


@dataclass(frozen=True)
class Bar:
    """One bar; `share` of the longest, 0 to 1, None if not measured; without a tone it is the reference."""

    label: str
    value: str
    share: float | None
    tone: int | None


@dataclass(frozen=True)
class CostGroup:
    """One kind of cost with its bars, and how the first compares in words."""

    title: str
    bars: tuple[Bar, ...]
    beside_full: str | None = None


@dataclass(frozen=True)
class MemoryPart:
    """One part of the memory that training needs; `share` of the whole, 0 to 1."""

    label: str
    value: str
    share: float
    tone: int


def cost_groups(run: RunRecord) -> tuple[CostGroup, ...]:
    """The costs of one run, each beside full fine-tuning where that is known."""
    groups = []
    for kind in KINDS:
        own, full = getattr(run.costs, kind.key), getattr(run.full_finetuning, kind.key)
        if kind.key == "inference_seconds" and own is None and full is None:
            continue
        bars = [("this run", own, 0)] + ([(FULL, full, None)] if full is not None else [])
        groups.append(
            CostGroup(kind.title, _bars(bars, kind.show), units.beside_full(own, full, kind.less, kind.more))
        )
    return tuple(groups)


def costs_side_by_side(runs: Sequence[tuple[str, int, RunRecord]]) -> tuple[CostGroup, ...]:
    """The costs of several runs, with full fine-tuning where all runs agree on it.

    Args:
        runs: Label, colour number and record of each run.
    """
    groups = []
    for kind in KINDS:
        values: list[tuple[str, float | None, int | None]] = [
            (label, getattr(run.costs, kind.key), tone) for label, tone, run in runs
        ]
        if all(value is None for _, value, _ in values):
            continue
        full = _agreed([run.full_finetuning for _, _, run in runs], kind.key)
        if full is not None and not any(run.method == "full" for _, _, run in runs):
            values.append((FULL, full, None))
        groups.append(CostGroup(kind.title, _bars(values, kind.show)))
    return tuple(groups)


def memory_parts(run: RunRecord) -> tuple[MemoryPart, ...]:
    """The forecast of the training memory in parts; empty where a part is unknown."""
    parts = run.memory_forecast_bytes
    known = [(name, value) for name, value in parts.items() if value is not None]
    total = sum(value for _, value in known)
    if len(known) < len(parts) or not total:
        return ()
    return tuple(
        MemoryPart(name.replace("_", " "), units.size(value), value / total, tone)
        for tone, (name, value) in enumerate(known)
    )


def _bars(
    values: Sequence[tuple[str, float | None, int | None]], show: Callable[[float | None], str]
) -> tuple[Bar, ...]:
    longest = max((value for _, value, _ in values if value is not None), default=0) or 1
    return tuple(
        Bar(label, show(value), None if value is None else value / longest, tone)
        for label, value, tone in values
    )


def _agreed(references: Sequence[Costs], key: str) -> float | None:
    values = {getattr(reference, key) for reference in references}
    return values.pop() if len(values) == 1 else None
