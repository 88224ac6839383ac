"""The rows of a comparison of methods: numbers in words, and as what a table sorts by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vitune.report import units
from vitune.report.charts import TONES
from vitune.report.fields import Fields


@dataclass(frozen=True)
class Amount:
    """A number in words, and as what a table sorts by; empty where it was not measured."""

    words: str
    value: str


@dataclass(frozen=True)
class Measured:
    """A mean with its interval as positions from 0 to 100 on a line that all methods share."""

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Candidate:
    """Settings that were tried: learning rate, validation accuracy, whether they won, and why they failed."""

    lr: str
    accuracy: str
    chosen: bool
    failed: bool


@dataclass(frozen=True)
class MethodRow:
    """One method in the tables."""

    method: str
    tone: int
    best: bool
    baseline: bool
    accuracy: Amount
    interval: str
    line: Measured | None
    difference: Amount
    clear: bool
    costs: tuple[Amount, ...]
    rank: Amount
    lr: Amount
    seeds: tuple[str, ...]
    candidates: tuple[Candidate, ...]


def _short_count(value: float | None) -> str:
    return units.NOT_MEASURED if value is None else units.short_count(round(value))


COST_HEADS: tuple[tuple[str, str, Callable[[float | None], str]], ...] = (
    ("Trained parameters", "trained_parameters", _short_count),
    ("Saved activations", "saved_activation_bytes", units.size),
    ("Peak memory (forecast)", "peak_bytes", units.size),
    ("Training time", "train_seconds", units.seconds),
    ("On disk", "adapter_bytes", units.size),
)


def method_row(method: Fields, index: int, baseline: str, ends: Sequence[float]) -> MethodRow:
    """One method in words.

    Args:
        method: What `comparison.json` holds of it.
        index: Its place, which gives its colour.
        baseline: The method that the others are compared with.
        ends: All means and ends of intervals of all methods.

    Raises:
        RunError: If a value is of the wrong type.
    """
    accuracy, difference = method.mapping("accuracy"), method.mapping("difference")
    mean, low, high = (accuracy.number(key) for key in ("mean", "low", "high"))
    name = method.text("method") or "unknown method"
    lead = difference.number("mean")
    edges = [difference.number(key) for key in ("low", "high")]
    return MethodRow(
        method=name,
        tone=index % TONES,
        best=method.values.get("best") is True,
        baseline=name == baseline,
        accuracy=_amount(mean, units.percent, none="failed"),
        interval="-" if mean is None else _interval(low, high, accuracy.text("over")),
        line=_line(mean, low, high, ends),
        difference=_amount(lead, lambda value: _points(value, *edges), none="-"),
        clear=lead is not None and all(edge is not None and edge * lead > 0 for edge in edges),
        costs=tuple(
            _amount(
                method.mapping("costs").number(key), show, none="-" if mean is None else units.NOT_MEASURED
            )
            for _, key, show in COST_HEADS
        ),
        rank=_amount(method.number("rank"), lambda value: f"{value:.2f}".removesuffix(".00"), none="-"),
        lr=_amount(method.number("lr"), lambda value: f"{value:g}", none="-"),
        seeds=tuple(
            "failed" if entry.text("error") else units.percent(entry.share("accuracy"))
            for entry in method.objects("seeds")
        ),
        candidates=tuple(
            Candidate(
                lr=f"{entry.number('lr'):g}" if entry.number("lr") is not None else "default",
                accuracy=units.percent(entry.share("accuracy")),
                chosen=entry.values.get("chosen") is True,
                failed=entry.text("error") is not None,
            )
            for entry in method.objects("candidates")
        ),
    )


def _amount(value: float | None, show: Callable[[float], str], none: str) -> Amount:
    return Amount(none, "") if value is None else Amount(show(value), repr(value))


def _interval(low: float | None, high: float | None, over: str | None) -> str:
    if low is None or high is None:
        return units.NOT_MEASURED
    return f"{low * 100:.1f} to {units.percent(high)}" + (" (images)" if over == "images" else "")


def _points(value: float, low: float | None, high: float | None) -> str:
    text = f"{100 * value:+.1f}"
    return text if low is None or high is None else f"{text} ({100 * low:+.1f} to {100 * high:+.1f})"


def _line(
    mean: float | None, low: float | None, high: float | None, ends: Sequence[float]
) -> Measured | None:
    if mean is None or max(ends) <= min(ends):
        return None

    def place(value: float | None) -> float | None:
        return None if value is None else round(2 + 96 * (value - min(ends)) / (max(ends) - min(ends)), 1)

    centre = place(mean)
    assert centre is not None
    return Measured(centre, place(low), place(high))
