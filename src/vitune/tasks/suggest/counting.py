"""What a method costs on this backbone at the memory level that fits, counted without memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from vitune.adapters import stored_bytes
from vitune.errors import VituneError
from vitune.lean import LEVELS, Level
from vitune.measure import Work, forecast_memory
from vitune.methods import Method, method_text, parse
from vitune.tasks.costing import STOCK, Subject
from vitune.tasks.memory_plan import FAST_FROM, first_that_fits
from vitune.tasks.suggest.settings import SIZES
from vitune.tasks.suggest.time_model import Load
from vitune.training.advice import learning_rate
from vitune.training.config import TrainConfig
from vitune.tuned import Tuned


@dataclass(frozen=True)
class Counted:
    """Exact costs of one method.

    Attributes:
        method: As the command line writes it.
        merges: Whether the trained model becomes a plain one.
        trained_parameters: The head's included.
        adapter_bytes: Of the file, without names.
        level: Memory level that was chosen.
        accumulate: Parts that a batch is cut into.
        part: Images of a part.
        forecast_bytes: The most that a step holds; the least possible where that is above the limit.
        fits_memory: Whether it is within the limit.
        load: Of a step of the whole batch; of the mean one, where a method draws what a step trains.
        evaluation: Work of a forward pass of the trained model as it is while it trains, per image.
        inference: The same as it is used later.
        default_lr: Learning rate that a run takes if nobody says one.
    """

    method: str
    merges: bool
    trained_parameters: int
    adapter_bytes: int
    level: Level
    accumulate: int
    part: int
    forecast_bytes: int
    fits_memory: bool
    load: Load
    evaluation: Work
    inference: Work
    default_lr: float


def count(subject: Subject, text: str, batch_size: int, limit: int | None) -> Counted:
    """Choose the memory level and count.

    Args:
        subject: Backbone, head, precision, device.
        text: The method.
        batch_size: Images of a step.
        limit: Bytes that a step may hold; None takes the level that `vitune train` takes by itself.

    Raises:
        VituneError: If the method does not fit the backbone.
    """
    tuned = subject.tuned(text, STOCK, weights=False)
    size, trained, disk = tuned.anatomy.input_size, tuned.costs().trained_parameters, stored_bytes(tuned)
    level, accumulate, forecast, fits = _memory(subject, tuned, batch_size, limit)
    part = -(-batch_size // accumulate)
    tuned.memory = level
    load = replace(step_load(subject, tuned, part), work=subject.mean_step_work(tuned, part))
    tuned.memory = STOCK
    evaluation = subject.inference_work(tuned.model.eval(), size, 1)
    inference = _merged(subject, tuned, text)
    return Counted(
        method=text,
        merges=inference is not None,
        trained_parameters=trained,
        adapter_bytes=disk,
        level=level,
        accumulate=accumulate,
        part=part,
        forecast_bytes=forecast,
        fits_memory=fits,
        load=replace(load, work=load.work.times(accumulate)),
        evaluation=evaluation,
        inference=inference or evaluation,
        default_lr=learning_rate(TrainConfig(), parse(text)),
    )


def _merged(subject: Subject, tuned: Tuned, text: str) -> Work | None:
    """Work of the plain model that a method merges to, per image; None where it does not, or not wholly."""
    if not all(method.merges for method in tuned.methods):
        return None
    try:
        plain = subject.deployed(text, weights=False)
    except VituneError:
        return None
    return subject.inference_work(plain, tuned.anatomy.input_size, 1)


def step_load(subject: Subject, tuned: Tuned, images: int) -> Load:
    """The load of a step of so many images at the level that the model is on."""
    parameters = list(tuned.parameters())
    return Load(
        subject.step_work(tuned, images),
        tuned.memory != STOCK,
        sum(parameter.numel() * parameter.element_size() for parameter in parameters),
        len(parameters),
    )


def smaller(text: str, fits: Callable[[str], bool]) -> str | None:
    """The largest of ever smaller settings of a method that fits.

    Args:
        text: The method.
        fits: Tells of a method whether it fits.

    Returns:
        The method as text; None where it has no size, or not even the smallest fits.
    """
    methods = parse(text)
    if len(methods) != 1 or methods[0].name not in SIZES:
        return None
    name, method = SIZES[methods[0].name], methods[0]
    value = getattr(method, name)
    while isinstance(value, int) and value > 1:
        value //= 2
        candidate = _with(method, name, value)
        if candidate is not None and fits(candidate):
            return candidate
    return None


def _with(method: Method, name: str, value: int) -> str | None:
    try:
        return method_text(replace(method, **{name: value}))
    except ValueError:  # a size that the method does not take
        return None


def _memory(
    subject: Subject, tuned: Tuned, batch_size: int, limit: int | None
) -> tuple[Level, int, int, bool]:
    """Level, parts, forecast in bytes, and whether it is within the limit."""

    def peak(level: Level, images: int) -> int:
        tuned.memory = level
        return subject.step_peak(tuned, images)

    if limit is None:
        tuned.memory = STOCK
        shape = (batch_size, *tuned.anatomy.input_size)
        saved = forecast_memory(tuned.model, shape, precision=subject.precision, device=subject.device)
        level: Level = "fast" if saved.saved_activations >= FAST_FROM else STOCK
        return level, 1, peak(level, batch_size), True
    found = first_that_fits(peak, LEVELS, batch_size, limit)
    if isinstance(found, int):
        return LEVELS[-1], batch_size, found, False
    return found.level, found.accumulate, found.forecast, True
