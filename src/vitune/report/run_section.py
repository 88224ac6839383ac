"""What the page shows of one run: everything drawn and worded, ready for templates/run.html.j2."""

from __future__ import annotations

from dataclasses import dataclass

from vitune.report import units
from vitune.report.allocation_map import AllocationMap, allocation_map
from vitune.report.anatomy_drawing import AnatomyDrawing, anatomy_drawing
from vitune.report.charts import Chart, Series, line_chart
from vitune.report.confusion import Confusion, confusion
from vitune.report.costs import CostGroup, MemoryPart, cost_groups, memory_parts
from vitune.report.mistakes import Mistake, worst_mistakes
from vitune.report.pictures import Picture, draw_all
from vitune.report.record import Log, Metric, RunRecord
from vitune.report.settings import Regeneration, SettingsGroup, regeneration, settings_groups

NOT_RECORDED = "not recorded"
INTERVAL_WORDS = {"wilson95": "95\u00a0% interval (Wilson)"}


@dataclass(frozen=True)
class Headline:
    """Accuracy on one split, in words, and where its interval lies on a line from 0 to 1."""

    split: str
    accuracy: str
    interval_name: str
    interval: str
    images: str
    loss: str
    metric: Metric


@dataclass(frozen=True)
class RunSection:
    """One run on the page; `key` starts the ids of its elements, `tone` is its colour number."""

    key: str
    label: str
    tone: int
    run: RunRecord
    headlines: tuple[Headline, ...]
    facts: tuple[tuple[str, str], ...]
    drawing: AnatomyDrawing | None
    allocations: tuple[AllocationMap, ...]
    pictures: tuple[Picture, ...]
    curves: tuple[Chart, ...]
    confusion: Confusion | None
    mistakes: tuple[Mistake, ...]
    costs: tuple[CostGroup, ...]
    memory: tuple[MemoryPart, ...]
    settings: tuple[SettingsGroup, ...]
    regeneration: Regeneration


def run_section(run: RunRecord, *, key: str, label: str, tone: int, most_mistakes: int) -> RunSection:
    """Draw and word one run.

    Args:
        run: The run.
        key: Start of the ids of its elements; unique on the page.
        label: Its name on the page.
        tone: Its colour number.
        most_mistakes: How many mistakes to show.
    """
    return RunSection(
        key=key,
        label=label,
        tone=tone,
        run=run,
        headlines=_headlines(run),
        facts=_facts(run),
        drawing=anatomy_drawing(run.edits, run.blocks, run.costs.head_parameters),
        allocations=_allocations(run),
        pictures=draw_all(run, key),
        curves=_curves(run.log, run.best_epoch) if run.log else (),
        confusion=confusion(run),
        mistakes=worst_mistakes(run, most_mistakes),
        costs=cost_groups(run),
        memory=memory_parts(run),
        settings=settings_groups(run),
        regeneration=regeneration(run),
    )


def _allocations(run: RunRecord) -> tuple[AllocationMap, ...]:
    """A map for each method that allocated a budget."""
    maps = (allocation_map(settings, run.blocks) for _, settings in run.methods)
    return tuple(found for found in maps if found is not None)


def interval_words(metric: Metric) -> str:
    """The interval in percent, or that there is none."""
    if metric.low is None or metric.high is None:
        return units.NOT_MEASURED
    return f"{metric.low * 100:.1f} to {units.percent(metric.high)}"


def _headlines(run: RunRecord) -> tuple[Headline, ...]:
    first = run.headline()
    order = [first[0], *(split for split in run.metrics if split != first[0])] if first else []
    return tuple(
        Headline(
            split=units.split_words(split),
            accuracy=units.percent(run.metrics[split].accuracy),
            interval_name=INTERVAL_WORDS.get(
                run.metrics[split].interval or "", run.metrics[split].interval or "interval"
            ),
            interval=interval_words(run.metrics[split]),
            images=units.count(run.metrics[split].n),
            loss=units.decimal(run.metrics[split].loss),
            metric=run.metrics[split],
        )
        for split in order
    )


def _facts(run: RunRecord) -> tuple[tuple[str, str], ...]:
    data, model = run.data, run.model
    sizes = [f"{data[split]:,} {words}" for split, words in _SIZES if data.get(split) is not None]
    facts = [
        ("Method", run.method),
        ("Backbone", str(model.get("name") or NOT_RECORDED)),
        ("Data", str(data.get("path") or NOT_RECORDED)),
        ("Images", ", ".join(sizes)),
        ("Classes", "" if data.get("classes") is None else units.count(data["classes"])),
        ("Protocol", run.protocol or NOT_RECORDED),
        ("Learning rate", "" if run.lr is None else units.decimal(run.lr)),
        ("Best epoch", "" if run.best_epoch is None else str(run.best_epoch)),
        ("Training time", units.seconds(run.log.seconds) if run.log and run.log.seconds is not None else ""),
    ]
    return tuple((name, value) for name, value in facts if value)


_SIZES = (("train", "training"), ("val", "validation"), ("test", "test"))


def _curves(log: Log, best_epoch: int | None) -> tuple[Chart, ...]:
    epochs = log.epochs
    mark = None if best_epoch is None else (best_epoch, "best")
    loss = line_chart(
        "Loss",
        [
            Series("training", [(e.epoch, e.train_loss) for e in epochs], 0),
            Series("validation", [(e.epoch, e.val_loss) for e in epochs], 1, dash=1),
        ],
        mark=mark,
    )
    accuracy = line_chart(
        "Validation accuracy",
        [Series("accuracy", [(e.epoch, e.val_accuracy) for e in epochs], 1)],
        percent=True,
        mark=mark,
    )
    stepwise = [(s.step, s.lr) for s in log.steps if s.lr is not None]
    finer = len(stepwise) > len(epochs)
    rate = line_chart(
        "Learning rate",
        [Series("learning rate", stepwise if finer else [(e.epoch, e.lr) for e in epochs], 5)],
        x_label="step" if finer else "epoch",
        from_zero=True,
    )
    return tuple(chart for chart in (loss, accuracy, rate) if chart)
