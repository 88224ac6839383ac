"""A few short steps of the real model, and a few images read: what the forecast of time is calibrated by."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from vitune.data import AugmentConfig, Pipeline, Preprocessing, Samples, build_transform
from vitune.data.cache import CACHE_LIMIT_BYTES
from vitune.tasks.costing import RealStep, Subject
from vitune.tasks.suggest.counting import Counted, step_load
from vitune.tasks.suggest.time_model import Load, TimeModel, fit_time
from vitune.training.config import TrainConfig

_ROUNDS = 3
_READ_IMAGES = 24
# Those whose loads differ most, so that a model fitted to them forecasts the others.
_FIRST = ("full", "linear", "ssf", "lora")


@dataclass(frozen=True)
class StepTimes:
    """What was timed, and the model of all else.

    Attributes:
        model: Prices fitted to the timed steps.
        factors: Of every timed method: measured over forecast.
        images: Images of the timed steps.
        spread: Largest relative distance of a round from its median.
    """

    model: TimeModel
    factors: dict[str, float]
    images: int
    spread: float

    def step_seconds(self, counted: Counted) -> float:
        """Of a whole step at the user's batch size."""
        return self.model.seconds(counted.load) * self.factors.get(counted.method, 1.0)


def time_steps(
    subject: Subject, candidates: Sequence[Counted], budget: float, tell: Callable[[str], None]
) -> StepTimes:
    """Time as many of the methods as the budget allows, at their memory levels, and fit the model to them.

    Args:
        subject: Backbone, head, precision, device.
        candidates: The counted methods; at least one.
        budget: Seconds, roughly.
        tell: Is told what is being timed.
    """
    order = sorted(
        candidates, key=lambda one: _FIRST.index(one.method) if one.method in _FIRST else len(_FIRST)
    )
    tell(f"timing {order[0].method}")
    images = _images(subject, order, budget)
    begin = time.perf_counter()
    timed: list[tuple[str, Load, float]] = []
    spread = 0.0
    for one in order:
        left = budget - (time.perf_counter() - begin)
        if timed and left < (1 + _ROUNDS) * fit_time([entry[1:] for entry in timed]).seconds(one.load) * (
            images / (one.part * one.accumulate)
        ):
            continue
        tell(f"timing {one.method}")
        load, seconds = _timed(subject, one, min(images, one.part), _ROUNDS)
        median = statistics.median(seconds)
        spread = max(spread, *(abs(taken / median - 1) for taken in seconds))
        timed.append((one.method, load, median))
    model = fit_time([entry[1:] for entry in timed])
    factors = {method: seconds / model.seconds(load) for method, load, seconds in timed}
    return StepTimes(model, factors, images, spread)


def _images(subject: Subject, order: Sequence[Counted], budget: float) -> int:
    """The largest power of two at which the methods that come first take at most half of the budget; at least 1.

    Found by doubling: a step of one or two images is mostly what a step costs whatever its size, so it neither tells
    how many images the budget allows, nor what a whole batch takes.
    """
    first, needed = order[0], order[: len(_FIRST)]
    flops = [one.load.work.flops / (one.part * one.accumulate) for one in needed]
    steps = (1 + _ROUNDS) * sum(flops) / max(flops[0], 1)  # in steps of the first
    images = 1
    while 2 * images <= first.part:
        _, seconds = _timed(subject, first, images, 1)
        if 2 * seconds[0] * steps > budget / 2:
            break
        images *= 2
    return images


def _timed(subject: Subject, one: Counted, images: int, rounds: int) -> tuple[Load, list[float]]:
    tuned = subject.tuned(one.method, one.level, weights=True)
    load = step_load(subject, tuned, images)
    step = RealStep(subject, tuned, images, optimizer=True)
    step()  # makes the optimizer's state, and chooses kernels
    seconds = []
    for _ in range(rounds):
        _wait(subject)
        start = time.perf_counter()
        step()
        _wait(subject)
        seconds.append(time.perf_counter() - start)
    return load, seconds


def _wait(subject: Subject) -> None:
    if subject.device == "cuda":
        torch.cuda.synchronize()


@dataclass(frozen=True)
class ReadingTimes:
    """Seconds of one process for one image.

    Attributes:
        train: With the augmentation of training.
        evaluation: As evaluation sees images.
    """

    train: float
    evaluation: float


def time_reading(samples: Samples, preprocessing: Preprocessing, config: TrainConfig) -> ReadingTimes:
    """Read a few images as training does; decoding counts once per run where all images fit the cache.

    Args:
        samples: The training images.
        preprocessing: What the backbone wants to see.
        config: Augmentation and epochs.
    """
    every = max(1, len(samples) // _READ_IMAGES)
    some = samples.subset(list(range(0, len(samples), every))[:_READ_IMAGES])
    start = time.perf_counter()
    cached = Pipeline(some, lambda image: image, 0, cache=True)  # type: ignore[arg-type, return-value]
    decoding = (time.perf_counter() - start) * _cores() / len(some)  # it decodes in threads
    keeps = cached.cached_bytes / len(some) * len(samples) <= CACHE_LIMIT_BYTES
    once = decoding / config.epochs if keeps else decoding
    plain = not AugmentConfig.preset(config.augment).random_crop
    shown = preprocessing.exact_square() if plain else preprocessing
    transforms = (
        build_transform(shown, train=True, augment=config.augment),
        build_transform(shown, train=False),
    )
    found = []
    for transform in transforms:
        pipeline = Pipeline(some, transform, 0, cache=True)
        pipeline[0]
        start = time.perf_counter()
        for index in range(len(some)):
            pipeline[index]
        found.append(once + (time.perf_counter() - start) / len(some))
    return ReadingTimes(*found)


def seconds_with_reading(computing: float, reading: float, device: str, workers: int) -> float:
    """How long computing and reading take side by side.

    On a CPU both share the cores; torch computes on as many of them as it has threads.

    Args:
        computing: Wall seconds of computing alone.
        reading: Seconds of one process for reading alone.
        device: Where is computed.
        workers: Processes that read; 0 reads in between.
    """
    if workers == 0:
        return computing + reading
    cores = _cores()
    apart = max(computing, reading / min(workers, cores))
    if device != "cpu":
        return apart
    return max(apart, (computing * min(torch.get_num_threads(), cores) + reading) / cores)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
