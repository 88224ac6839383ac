"""Let methods look at training images before it is known what they edit."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from vitune.data import Pipeline, Preprocessing, Samples, build_transform
from vitune.methods import DataNeeds, Method
from vitune.randomness import derive_seed
from vitune.training.batches import evaluation_batches, make_loader
from vitune.training.config import TrainConfig


def resolve_methods(
    methods: Sequence[Method],
    model: nn.Module,
    samples: Samples,
    preprocessing: Preprocessing,
    config: TrainConfig,
    accelerator: Accelerator,
) -> tuple[Method, ...]:
    """Methods with everything filled in that depends on the data; those that need none as they are.

    Args:
        methods: As the user wrote them.
        model: The plain backbone with its fresh head; left as it was.
        samples: The training images.
        preprocessing: What images are to look like.
        config: Settings of the run.
        accelerator: Where to compute; all processes get what the first one found.

    Raises:
        VituneError: As the methods' `resolved`.
    """
    found: list[Any] = list(methods)
    for i, method in enumerate(methods):
        needs = method.needs_data
        if needs is None:
            continue
        batches = _batches(samples, needs, preprocessing, config, derive_seed(config.seed, "look", i))
        home = next(model.parameters()).device
        model.to(accelerator.device)
        try:
            found[i] = method.resolved(model, batches, seed=derive_seed(config.seed, "resolve", i))
        finally:
            model.to(home)
    if accelerator.num_processes > 1 and found != list(methods):
        broadcast_object_list(found)
    return tuple(found)


def _batches(
    samples: Samples, needs: DataNeeds, preprocessing: Preprocessing, config: TrainConfig, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    order = list(range(len(samples)))
    if needs.shuffled:
        random.Random(seed).shuffle(order)
    chosen = samples.subset(order[: needs.batches * needs.batch_size])
    transform = build_transform(preprocessing, train=False)
    pipeline = Pipeline(chosen, transform, config.seed, cache=False)  # each image is read once
    keys = evaluation_batches(len(chosen), needs.batch_size)
    for images, labels, _ in make_loader(pipeline, keys, config.workers):
        yield images, torch.as_tensor(labels)
