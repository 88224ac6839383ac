"""Which limits a method breaks, and the nearest setting that keeps them."""

from __future__ import annotations

from collections.abc import Callable

from vitune.adapters import stored_bytes
from vitune.report.units import seconds as time_words
from vitune.report.units import size
from vitune.tasks.costing import STOCK, Subject
from vitune.tasks.suggest.counting import smaller
from vitune.tasks.suggest.result import Costs
from vitune.tasks.suggest.settings import Limits


def broken(limits: Limits, costs: Costs, *, fits_memory: bool, merges: bool) -> tuple[str, ...]:
    """The limits that forecast costs break, each in words.

    Args:
        limits: What must fit.
        costs: Forecast.
        fits_memory: Whether some memory level and part of a batch fits.
        merges: Whether the trained model becomes a plain one.
    """
    found = []
    if not fits_memory:
        found.append(
            f"memory: the least that a step holds is {size(costs.step_bytes)}, limit {size(limits.memory_bytes())}"
        )
    time, count, disk = limits.seconds(), limits.count(), limits.disk_bytes()
    if time is not None and costs.train_seconds > time:
        found.append(f"time: {time_words(costs.train_seconds)}, limit {time_words(time)}")
    if count is not None and costs.trained_parameters > count:
        found.append(f"parameters: {costs.trained_parameters:,}, limit {count:,}")
    if disk is not None and costs.adapter_bytes > disk:
        found.append(f"disk: {size(costs.adapter_bytes)}, limit {size(disk)}")
    if limits.no_inference_overhead and not merges:
        found.append(
            f"inference: about {100 * costs.inference_overhead:.0f} % longer, since it does not merge"
        )
    return tuple(found)


def nearest_size(subject: Subject, method: str, limits: Limits) -> str | None:
    """The largest smaller setting of a method within the limits of parameters and disk; None where there is none.

    Args:
        subject: Backbone and head.
        method: The method.
        limits: What must fit.
    """
    count, disk = limits.count(), limits.disk_bytes()

    def fits(text: str) -> bool:
        tuned = subject.tuned(text, STOCK, weights=False)
        few = count is None or tuned.costs().trained_parameters <= count
        return few and (disk is None or stored_bytes(tuned) <= disk)

    return smaller(method, fits)


def nearest_epochs(limits: Limits, epochs: int, train_seconds: Callable[[int], float]) -> int | None:
    """The most epochs within the limit of time; None where not even one fits.

    Args:
        limits: What must fit.
        epochs: Those that do not.
        train_seconds: Forecast for a number of epochs.
    """
    time = limits.seconds()
    if time is None:
        return None
    return next((number for number in range(epochs - 1, 0, -1) if train_seconds(number) <= time), None)
