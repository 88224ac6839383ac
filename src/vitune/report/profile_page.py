"""The report of `vitune profile`: memory against time, every cost as bars, and all numbers in a table."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitune.report import units
from vitune.report.cost_scatter import CostPoint, cost_scatter
from vitune.report.costs import Bar, CostGroup
from vitune.report.fields import Fields
from vitune.report.method_rows import Amount
from vitune.report.scatter import Scatter
from vitune.report.shell import render_page, write_page

_Show = Callable[[float | None], str]


@dataclass(frozen=True)
class ProfileLine:
    """A method at a memory level: its numbers in the order of `HEADS`."""

    label: str
    tone: int
    baseline: bool
    amounts: tuple[Amount, ...]


@dataclass(frozen=True)
class ProfilePage:
    """The whole page."""

    lead: str
    scatter: Scatter | None
    has_front: bool
    costs: tuple[CostGroup, ...]
    heads: tuple[str, ...]
    lines: tuple[ProfileLine, ...]
    facts: tuple[tuple[str, str], ...]


def _times(value: float | None) -> str:
    return units.NOT_MEASURED if value is None else f"{value:.2f}"


def _mebibytes(value: float | None) -> str:
    return units.NOT_MEASURED if value is None else f"{value / 2**20:,.0f} MiB"


# Heading, key of the row, words, and whether a memory level changes it.
HEADS: tuple[tuple[str, str, _Show, bool], ...] = (
    ("Memory of a step, forecast", "forecast_bytes", _mebibytes, True),
    ("Memory of a step, measured", "peak_bytes", _mebibytes, True),
    ("Saved activations", "saved_activation_bytes", _mebibytes, True),
    ("Time of a step", "step_seconds", units.seconds, True),
    ("Step over full fine-tuning", "step_ratio", _times, True),
    ("Compute of a step, per image", "step_flops", units.flops, True),
    ("Trained parameters", "trained_parameters", units.count, False),
    ("File on disk", "adapter_bytes", units.size, False),
    ("Prediction over the plain backbone", "inference_ratio", _times, False),
)


def write_profile_report(values: Mapping[str, Any], destination: Path) -> Path:
    """Write the page of a profile.

    Args:
        values: What `ProfileResult.as_dict` gives.
        destination: The HTML file to write; an existing one is replaced in one step.

    Returns:
        The file written.

    Raises:
        RunError: If a value is of the wrong type, or the file cannot be written.
    """
    fields = Fields(values, "profile")
    model = fields.mapping("settings").text("model") or "the built-in backbone"
    page = render_page("profile.html.j2", title=f"What methods cost on {model}", page=profile_page(fields))
    return write_page(Path(destination), page)


def profile_page(fields: Fields) -> ProfilePage:
    """What the page shows.

    Args:
        fields: The result, its rows with stock full fine-tuning first.

    Raises:
        RunError: If a value is of the wrong type.
    """
    rows = fields.objects("rows")
    tones = {name: tone for tone, name in enumerate(dict.fromkeys(_method(row) for row in rows))}
    measured = [head for head in HEADS if any(_number(row, head[1]) is not None for row in rows)]
    scatter = _scatter(rows, tones)
    settings = fields.mapping("settings")
    batch, precision = settings.integer("batch_size") or 0, settings.text("precision") or "fp32"
    return ProfilePage(
        lead=(
            f"Training steps of {batch} images in {precision}. Stock full fine-tuning is what the others stand beside."
        ),
        scatter=scatter,
        has_front=scatter is not None and bool(scatter.front),
        costs=tuple(_group(head, rows, tones) for head in measured),
        heads=tuple(head[0] for head in measured),
        lines=tuple(_line(row, index, tones, measured) for index, row in enumerate(rows)),
        facts=_facts(fields),
    )


def _method(row: Fields) -> str:
    return row.text("method") or "unknown method"


def _label(row: Fields) -> str:
    return f"{_method(row)}, {row.text('memory') or 'stock'}"


def _number(row: Fields, key: str) -> float | None:
    """A number; of a ratio with its range, the median."""
    value = row.values.get(key)
    return float(value[0]) if isinstance(value, list | tuple) and value else row.number(key)


def _scatter(rows: Sequence[Fields], tones: Mapping[str, int]) -> Scatter | None:
    timed = all(_number(row, "step_ratio") is not None for row in rows)
    peaks = all(_number(row, "peak_bytes") is not None for row in rows)
    x_key, y_key = "step_ratio" if timed else "step_flops", "peak_bytes" if peaks else "forecast_bytes"
    points = []
    for index, row in enumerate(rows):
        across, up = _number(row, x_key), _number(row, y_key)
        if across is not None and up is not None:
            points.append(CostPoint(_label(row), tones[_method(row)], across, up / 2**20, index == 0))
    words = "time of a step over stock full fine-tuning" if timed else "GFLOPs of a step, per image"
    title = f"Memory of a step, MiB, against {'time' if timed else 'compute'}"

    def show_across(value: float) -> str:
        return f"{value:.3g}" if timed else f"{value / 1e9:.3g}"

    return cost_scatter(title, points, words, (show_across, lambda value: f"{value:,.0f}"))


def _group(head: tuple[str, str, _Show, bool], rows: Sequence[Fields], tones: Mapping[str, int]) -> CostGroup:
    title, key, show, by_level = head
    shown = {(_label(row) if by_level else _method(row)): row for row in reversed(rows)}
    entries = [(label, _number(row, key), row) for label, row in reversed(shown.items())]
    longest = max((value for _, value, _ in entries if value is not None), default=0) or 1
    bars = tuple(
        Bar(
            label,
            show(value),
            None if value is None else value / longest,
            None if row is rows[0] else tones[_method(row)],
        )
        for label, value, row in entries
    )
    return CostGroup(title, bars)


def _line(
    row: Fields, index: int, tones: Mapping[str, int], heads: Sequence[tuple[str, str, _Show, bool]]
) -> ProfileLine:
    amounts = []
    for _, key, show, _ in heads:
        value = _number(row, key)
        amounts.append(Amount(show(value), "" if value is None else f"{value:.9g}"))
    return ProfileLine(_label(row), tones[_method(row)], index == 0, tuple(amounts))


def _facts(fields: Fields) -> tuple[tuple[str, str], ...]:
    settings = fields.mapping("settings").values
    return (
        ("Backbone", str(settings.get("model") or "the built-in one")),
        ("Classes", str(settings.get("classes"))),
        ("Images of a step", str(settings.get("batch_size"))),
        ("Precision", str(settings.get("precision"))),
        ("Device", str(settings.get("device"))),
        ("Rounds timed", str(settings.get("rounds"))),
        ("Machine", _pairs(fields.mapping("machine"))),
        ("Versions", _pairs(fields.mapping("versions"))),
        *(("Note", note) for note in fields.texts("notes")),
    )


def _pairs(fields: Fields) -> str:
    return ", ".join(
        f"{name} {value if isinstance(value, str) else json.dumps(value)}"
        for name, value in fields.values.items()
        if value
    )
