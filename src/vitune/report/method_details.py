"""One method of a comparison in full: what was tried, what was chosen, how each trial went, what failed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vitune.report import units
from vitune.report.charts import Chart, Series, line_chart, second_mark
from vitune.report.fields import Fields
from vitune.report.method_rows import Amount

# Beyond so many lines a chart tells nothing apart: the best candidates are drawn.
MOST_LINES = 8


@dataclass(frozen=True)
class Attempt:
    """A trial in a table: its settings or seed, accuracy and loss on its split, its file, and why it failed."""

    settings: tuple[Amount, ...]
    accuracy: Amount
    loss: Amount
    chosen: bool
    error: str | None
    file: str


@dataclass(frozen=True)
class MethodDetails:
    """The drill-down of one method.

    Attributes:
        method: Its name in the comparison.
        tone: Its colour.
        key: Anchor of the section.
        headline: Accuracy, or that it failed.
        chosen: The settings that were chosen, by name.
        heads: Names of the settings that were searched.
        candidates: What was tried on validation images.
        candidate_curves: How the candidates went.
        seeds: The final trials.
        seed_curves: How they went.
        note: What the curves leave out.
    """

    method: str
    tone: int
    key: str
    headline: str
    chosen: tuple[tuple[str, str], ...]
    heads: tuple[str, ...]
    candidates: tuple[Attempt, ...]
    candidate_curves: tuple[Chart, ...]
    seeds: tuple[Attempt, ...]
    seed_curves: tuple[Chart, ...]
    note: str | None


def method_details(method: Fields, index: int, tone: int, headline: str) -> MethodDetails:
    """What the page tells of one method.

    Args:
        method: What `comparison.json` holds of it.
        index: Its place.
        tone: Its colour.
        headline: Accuracy in words.

    Raises:
        RunError: If a value is of the wrong type.
    """
    name = method.text("method") or "unknown method"
    candidates, seeds = method.objects("candidates"), method.objects("seeds")
    spelled = {entry.text("method") for entry in candidates} - {None}
    heads = list(dict.fromkeys(key for entry in candidates for key in entry.mapping("settings").values))
    if candidates and not heads:
        heads = ["lr"]
    many = len(spelled) > 1
    drawn = _most_telling(candidates)
    note = (
        f"The curves are those of the {len(drawn)} best candidates." if len(drawn) < len(candidates) else None
    )
    return MethodDetails(
        method=name,
        tone=tone,
        key=f"method-{index}",
        headline=headline,
        chosen=_chosen(method, name),
        heads=(*(["method"] if many else []), *map(setting_words, heads)),
        candidates=tuple(_attempt(entry, _settings(entry, heads, many)) for entry in candidates),
        candidate_curves=_curves([(_label(entry, heads, name, many), entry) for entry in drawn]),
        seeds=tuple(_attempt(entry, (_amount(entry.integer("seed")),)) for entry in seeds),
        seed_curves=_curves([(f"seed {entry.integer('seed')}", entry) for entry in seeds]),
        note=note,
    )


def setting_words(name: str) -> str:
    """A setting of training in words.

    Args:
        name: As the command line spells it.
    """
    return {"lr": "learning rate"}.get(name, name.replace("_", " "))


def chosen_words(method: Fields) -> tuple[str, ...]:
    """The chosen settings, a line each: the method as it was spelled, if the search changed it, and what was searched.

    Args:
        method: What `comparison.json` holds of a method.
    """
    pairs = _chosen(method, method.text("method") or "")
    return tuple(value if name == "method" else f"{name} {value}" for name, value in pairs)


def _chosen(method: Fields, name: str) -> tuple[tuple[str, str], ...]:
    found: list[tuple[str, str]] = []
    spelled = method.text("chosen_method")
    if spelled is not None and spelled != name:
        found.append(("method", spelled))
    values = dict(method.mapping("chosen").values)
    if "lr" not in values and (rate := method.number("lr")) is not None:
        values = {"lr": rate, **values}
    return (*found, *((setting_words(key), _amount(value).words) for key, value in values.items()))


def _settings(entry: Fields, heads: Sequence[str], many: bool) -> tuple[Amount, ...]:
    given = entry.mapping("settings").values
    values = [given.get(head, entry.number("lr") if head == "lr" else None) for head in heads]
    own = [Amount(entry.text("method") or "", entry.text("method") or "")] if many else []
    return (*own, *map(_amount, values))


def _label(entry: Fields, heads: Sequence[str], name: str, many: bool) -> str:
    """A candidate in few words: what the chart's legend has room for."""
    words = [
        f"{setting_words(head)} {amount.words}"
        for head, amount in zip(heads, _settings(entry, heads, False), strict=True)
    ]
    spelled = entry.text("method") or name
    return ", ".join([spelled, *words] if many else words)


def _attempt(entry: Fields, settings: tuple[Amount, ...]) -> Attempt:
    accuracy, loss, error = entry.share("accuracy"), entry.number("loss"), entry.text("error")
    return Attempt(
        settings=settings,
        accuracy=Amount(
            "failed" if error else units.percent(accuracy), "" if accuracy is None else repr(accuracy)
        ),
        loss=Amount("-" if error else units.decimal(loss), "" if loss is None else repr(loss)),
        chosen=entry.values.get("chosen") is True,
        error=error,
        file=entry.text("file") or "",
    )


def _most_telling(candidates: Sequence[Fields]) -> list[Fields]:
    """Those that are drawn, in the order in which they were tried."""
    ranked = sorted(candidates, key=lambda entry: -(entry.share("accuracy") or 0.0))[:MOST_LINES]
    return [entry for entry in candidates if any(entry is kept for kept in ranked)]


def _curves(entries: Sequence[tuple[str, Fields]]) -> tuple[Chart, ...]:
    logs = [(label, entry.objects("epochs")) for label, entry in entries]
    charts = []
    for title, key, percent in (
        ("Validation accuracy", "val_accuracy", True),
        ("Validation loss", "val_loss", False),
        ("Training loss", "train_loss", False),
    ):
        series = [
            Series(
                label,
                [(number, e.number(key)) for e in epochs if (number := e.integer("epoch")) is not None],
                tone,
                second_mark(tone),
            )
            for tone, (label, epochs) in enumerate(logs)
        ]
        charts.append(line_chart(title, series, percent=percent))
    return tuple(chart for chart in charts if chart)


def _amount(value: object) -> Amount:
    if value is None:
        return Amount("none", "")
    if isinstance(value, int | float) and not isinstance(value, bool):
        return Amount(f"{value:g}", repr(value))
    return Amount(str(value), str(value))
