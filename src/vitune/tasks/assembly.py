"""From a request to all that training needs, before anything is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from accelerate import Accelerator
from torch import nn

from vitune import backbones
from vitune.adapters import load_modules
from vitune.data import AugmentConfig, Pipeline, Preprocessing, Samples, Source, build_transform, open_source
from vitune.methods import Method, parse
from vitune.randomness import derive_seed, seeded
from vitune.tasks.costs import ExactCosts, exact_costs, full_costs
from vitune.tasks.memory_plan import hold_to_plan, plan_memory
from vitune.tasks.request import TrainRequest
from vitune.tasks.resolving import resolve_methods
from vitune.training.batches import check_batch_size
from vitune.training.config import TrainConfig
from vitune.training.data import FitData
from vitune.training.devices import make_accelerator
from vitune.tuned import Tuned, apply


@dataclass(frozen=True)
class Assembly:
    """A run that is ready to start.

    Attributes:
        source: The data.
        validation: The validation images, if there are any.
        preprocessing: What images are to look like.
        data: Training and validation images, transformed.
        tuned: The model with methods applied.
        training: How to train, with what the request left open settled.
        accelerator: Device, precision and processes.
        exact: Counted costs of a training step.
        full: The "full_finetuning" part of the result.
        notes: Sentences that the user should see before training.
    """

    source: Source
    validation: Samples | None
    preprocessing: Preprocessing
    data: FitData
    tuned: Tuned
    training: TrainConfig
    accelerator: Accelerator
    exact: ExactCosts
    full: dict[str, Any]
    notes: tuple[str, ...] = ()


def assemble(request: TrainRequest, source: Source | None = None) -> Assembly:
    """Open the data, make the model, apply the methods and count the costs.

    Args:
        request: What decides the run.
        source: Its data, where they are open already (and perhaps sealed).

    Raises:
        VituneError: If something in the request does not fit; nothing has been written then.
    """
    config = request.training
    methods = parse(request.method)
    accelerator = make_accelerator(config.device, config.precision)
    if source is None:
        source = open_source(request.data.path, **request.data.opening())
    train, validation = source.split("train"), source.split("val")
    assert train is not None  # `open_source` refuses data without a training split
    check_batch_size(config.batch_size, len(train))
    model = _make_model(request, len(source.class_names))
    preprocessing = Preprocessing.from_model(model, **request.data.looks())
    if not AugmentConfig.preset(config.augment).random_crop:
        # What is trained without crops sees whole images, and so must evaluation.
        preprocessing = preprocessing.exact_square()
    plain = exact_costs(model, preprocessing.input_size, config, accelerator)
    full = full_costs(model, plain)
    methods = resolve_methods(methods, model, train, preprocessing, config, accelerator)
    tuned = _apply(model, methods, request)
    notes: list[str] = list(source.describe()["split"].get("notes", ()))
    if request.init_modules is not None:
        notes += load_modules(tuned, request.init_modules, preprocessing=preprocessing.to_dict())
    config, note = plan_memory(tuned, config, preprocessing.input_size, accelerator)
    notes += [sentence for sentence in (note, hold_to_plan(config, accelerator)) if sentence is not None]
    exact = exact_costs(tuned.model, preprocessing.input_size, config, accelerator, tuned.policies)
    return Assembly(
        source=source,
        validation=validation,
        preprocessing=preprocessing,
        data=_fit_data(request, train, validation, preprocessing),
        tuned=tuned,
        training=config,
        accelerator=accelerator,
        exact=exact,
        full=full,
        notes=tuple(notes),
    )


def evaluation_pipeline(samples: Samples, preprocessing: Preprocessing, request: TrainRequest) -> Pipeline:
    """Images as the model is evaluated on them.

    Args:
        samples: The images.
        preprocessing: What they are to look like.
        request: Knows the seed and whether to keep decoded images.
    """
    transform = build_transform(preprocessing, train=False)
    return Pipeline(samples, transform, request.training.seed, cache=request.data.cache)


def _make_model(request: TrainRequest, num_classes: int) -> nn.Module:
    settings, config = request.model, request.training
    options: dict[str, Any] = {"drop_path_rate": config.drop_path} if config.drop_path else {}
    # The head is drawn at random when the model is made.
    with seeded(derive_seed(config.seed, "model")):
        return backbones.create(
            settings.name,
            num_classes=num_classes,
            weights=settings.weights,
            pretrained=settings.pretrained,
            img_size=settings.img_size,
            **options,
        )


def _apply(model: nn.Module, methods: tuple[Method, ...], request: TrainRequest) -> Tuned:
    return apply(model, methods, seed=derive_seed(request.training.seed, "methods"))


def _fit_data(
    request: TrainRequest, train: Samples, validation: Samples | None, preprocessing: Preprocessing
) -> FitData:
    config = request.training
    transform = build_transform(preprocessing, train=True, augment=config.augment)
    return FitData(
        Pipeline(train, transform, config.seed, cache=request.data.cache),
        None if validation is None else evaluation_pipeline(validation, preprocessing, request),
        len(train.class_names),
        train.name,
        # Seen once, before the first step: not worth a second copy of the decoded images.
        Pipeline(train, build_transform(preprocessing, train=False), config.seed, cache=False),
    )
