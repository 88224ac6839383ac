"""Suggest methods: open the data, count, time, rank."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from vitune import backbones
from vitune.anatomy import anatomy
from vitune.backbones import BUILT_IN
from vitune.data import Preprocessing, Samples, open_source
from vitune.errors import ConfigError, UnsupportedBackboneError, VituneError
from vitune.measure import keep_freed_memory, machine, return_freed_memory, versions
from vitune.tasks.costing import Subject
from vitune.tasks.suggest import commands
from vitune.tasks.suggest.counting import Counted, count
from vitune.tasks.suggest.evidence import Standing, standing
from vitune.tasks.suggest.limits import broken, nearest_epochs, nearest_size
from vitune.tasks.suggest.measuring import (
    ReadingTimes,
    StepTimes,
    seconds_with_reading,
    time_reading,
    time_steps,
)
from vitune.tasks.suggest.ranking import rank
from vitune.tasks.suggest.result import Costs, Excluded, Ranked, Suggestion
from vitune.tasks.suggest.settings import SuggestSettings
from vitune.tasks.suggest.time_model import Load
from vitune.tasks.suggest.words import how_sure, what_is_not_measured
from vitune.training.batches import check_batch_size
from vitune.training.config import TrainConfig
from vitune.training.devices import make_accelerator

_USUAL_BATCH = 64


@dataclass(frozen=True)
class _Question:
    """All that is known before methods are looked at."""

    settings: SuggestSettings
    config: TrainConfig
    subject: Subject
    train: Samples
    validation: Samples | None
    preprocessing: Preprocessing
    backbone: str
    family: str


def suggest(settings: SuggestSettings, tell: Callable[[str], None] = lambda text: None) -> Suggestion:
    """Rank methods for data, backbone, machine and limits.

    Args:
        settings: What is asked.
        tell: Is told what is being measured.

    Raises:
        VituneError: If the data, the backbone or a setting cannot be used, or no method suits the backbone.
    """
    question = _question(settings)
    counted, unsuited = _count_all(question, tell)
    with _memory_as_in_training(question):
        times = time_steps(question.subject, counted, settings.measure_seconds, tell)
    tell("reading images")
    reading = time_reading(question.train, question.preprocessing, question.config)
    candidates, excluded = [], []
    for one in counted:
        costs = _costs(question, one, times, reading)
        breaks = broken(settings.limits, costs, fits_memory=one.fits_memory, merges=one.merges)
        if breaks:
            excluded.append(_excluded(question, one, costs, breaks, times, reading))
        else:
            candidates.append((one, costs, _standing(question, one.method)))
    known = {one.method: (one, costs, found) for one, costs, found in candidates}
    ranked = tuple(
        _ranked(question, number, *known[place.method], place.reason)
        for number, place in enumerate(rank([(one.method, c, s) for one, c, s in candidates]), start=1)
    )
    return Suggestion(
        data={
            "path": str(settings.data.path),
            "train_images": len(question.train),
            "validation_images": 0 if question.validation is None else len(question.validation),
            "classes": len(question.train.class_names),
        },
        model=question.backbone,
        ranked=ranked,
        excluded=tuple(excluded),
        unsuited=unsuited,
        sure=how_sure(ranked, times, len(question.train), question.backbone),
        not_measured=what_is_not_measured(settings, question.subject.device),
        environment={"machine": machine(), "versions": versions()},
    )


def _question(settings: SuggestSettings) -> _Question:
    source = open_source(settings.data.path, **settings.data.opening())
    train, validation = source.split("train"), source.split("val")
    assert train is not None  # `open_source` refuses data without a training split
    batch_size = settings.batch_size or min(_USUAL_BATCH, 2 ** (len(train).bit_length() - 1))
    check_batch_size(batch_size, len(train))
    config = TrainConfig(
        epochs=settings.epochs,
        batch_size=batch_size,
        precision=settings.precision,
        device=settings.device,
        warmup_epochs=0 if settings.epochs == 1 else 1,
    )
    accelerator = make_accelerator(settings.device, settings.precision)
    device = accelerator.device.type
    if device not in ("cpu", "cuda"):
        raise ConfigError(
            f"suggest counts for cpu and cuda, and the device here is {device}; use --device cpu."
        )
    mixed = accelerator.mixed_precision
    if settings.model.weights is not None:
        raise ConfigError("suggest needs no weights, since costs do not depend on them; leave them out.")
    name = settings.model.name
    subject = Subject(
        name,
        len(train.class_names),
        settings.model.img_size,
        "fp32" if mixed == "no" else mixed,  # type: ignore[arg-type]
        device,
    )
    with torch.device("meta"):
        model = backbones.create(
            name, num_classes=subject.classes, pretrained=False, img_size=subject.image_size
        )
    return _Question(
        settings=settings,
        config=config,
        subject=subject,
        train=train,
        validation=validation,
        preprocessing=Preprocessing.from_model(model, **settings.data.looks()),
        backbone=name or BUILT_IN,
        family=anatomy(model).family,
    )


def _count_all(question: _Question, tell: Callable[[str], None]) -> tuple[list[Counted], dict[str, str]]:
    counted, unsuited = [], {}
    limit = question.settings.limits.memory_bytes()
    for method in dict.fromkeys(question.settings.methods):
        tell(f"counting {method}")
        try:
            counted.append(count(question.subject, method, question.config.batch_size, limit))
        except VituneError as error:
            unsuited[method] = str(error)
    if not counted:
        reasons = " ".join(f"{method}: {reason}" for method, reason in unsuited.items())
        raise UnsupportedBackboneError(f"no method suits {question.backbone}. {reasons}")
    return counted, unsuited


@contextmanager
def _memory_as_in_training(question: _Question) -> Any:
    """A limit of memory makes training return freed memory, which takes time; so must what is timed."""
    tight = question.settings.limits.memory is not None and question.subject.device == "cpu"
    if not tight:
        yield
        return
    return_freed_memory()
    try:
        yield
    finally:
        keep_freed_memory()


def _costs(question: _Question, one: Counted, times: StepTimes, reading: ReadingTimes) -> Costs:
    step = times.step_seconds(one)
    plain = times.model.seconds(Load(one.evaluation))
    return Costs(
        memory=one.level,
        accumulate=one.accumulate,
        step_bytes=one.forecast_bytes,
        step_seconds=step,
        train_seconds=_train_seconds(question, one, times, reading, question.config.epochs),
        trained_parameters=one.trained_parameters,
        adapter_bytes=one.adapter_bytes,
        inference_overhead=0.0 if one.merges else max(0.0, plain / _plain_seconds(question, times) - 1),
        timed=one.method in times.factors,
    )


def _plain_seconds(question: _Question, times: StepTimes) -> float:
    model = question.subject.deployed("linear", weights=False)
    size = question.preprocessing.input_size
    return times.model.seconds(Load(question.subject.inference_work(model, size, 1)))


def _train_seconds(
    question: _Question, one: Counted, times: StepTimes, reading: ReadingTimes, epochs: int
) -> float:
    images = len(question.train)
    computing = times.step_seconds(one) * images / question.config.batch_size
    device, workers = question.subject.device, question.config.workers
    epoch = seconds_with_reading(computing, reading.train * images, device, workers)
    if question.validation is not None:
        shown = len(question.validation)
        forward = times.model.seconds(Load(one.evaluation)) * times.factors.get(one.method, 1.0)
        epoch += seconds_with_reading(forward * shown, reading.evaluation * shown, device, workers)
    return epochs * epoch


def _standing(question: _Question, method: str) -> Standing:
    return standing(
        method, train_images=len(question.train), backbone=question.backbone, family=question.family
    )


def _ranked(
    question: _Question, number: int, one: Counted, costs: Costs, found: Standing, reason: str
) -> Ranked:
    rate = found.lr if found.lr is not None else one.default_lr
    origin = "chosen in our trials" if found.lr is not None else "the method's default"
    return Ranked(
        rank=number,
        method=one.method,
        costs=costs,
        standing=found,
        lr=rate,
        lr_from=origin,
        reason=reason,
        command=commands.train(question.settings, question.config, one.method, costs, rate),
    )


def _excluded(
    question: _Question,
    one: Counted,
    costs: Costs,
    breaks: tuple[str, ...],
    times: StepTimes,
    reading: ReadingTimes,
) -> Excluded:
    """With the nearest setting that keeps every limit, where there is one."""
    kinds = {text.partition(":")[0] for text in breaks}
    method, epochs, limits = one.method, question.config.epochs, question.settings.limits
    nearest: list[str] = []
    possible = not kinds & {"memory", "inference"}
    if possible and kinds & {"parameters", "disk"}:
        found = nearest_size(question.subject, method, limits)
        possible, method = found is not None, found or method
        nearest.append(method)
    if possible and "time" in kinds:
        fewer = nearest_epochs(limits, epochs, lambda n: _train_seconds(question, one, times, reading, n))
        possible, epochs = fewer is not None, fewer or epochs
        nearest.append(f"{epochs} epoch{'s' * (epochs > 1)}")
    if not possible:
        return Excluded(one.method, costs, breaks, None, None)
    config = replace(question.config, epochs=epochs, warmup_epochs=0 if epochs == 1 else 1)
    rate = _standing(question, method).lr or one.default_lr
    command = commands.train(question.settings, config, method, costs, rate)
    return Excluded(one.method, costs, breaks, ", ".join(nearest), command)
