"""The quick way to train a head: its inputs are computed once where they are the same in every epoch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import Dataset

from vitune.training.batches import Key, evaluation_batches, make_loader
from vitune.training.data import FitData
from vitune.training.modes import evaluation_mode, train_mode

if TYPE_CHECKING:
    from vitune.training.config import TrainConfig
    from vitune.tuned import Tuned

_LIMIT_BYTES = 2 * 2**30


class Features(Dataset[Any]):
    """Inputs of the head in place of images.

    Args:
        features: (n, ...), in the order of the images.
        labels: (n,).
    """

    def __init__(self, features: Tensor, labels: Tensor) -> None:
        self._features, self._labels = features, labels

    def __len__(self) -> int:
        return len(self._features)

    def __getitem__(self, key: Key) -> tuple[Tensor, int, int]:
        """The feature, the label and the index of an (epoch, index)."""
        index = key[1]
        return self._features[index], int(self._labels[index]), index


@dataclass(frozen=True)
class CachedData:
    """A head, and the data to train it on.

    Attributes:
        head: Gives logits for the features.
        data: Features in place of images.
    """

    head: nn.Module
    data: FitData


def cached_features(
    tuned: Tuned, data: FitData, config: TrainConfig, accelerator: Accelerator
) -> CachedData | None:
    """Compute the inputs of the head once, where that gives the same training.

    That is so when nothing before the head trains, and nothing random happens to the images or the
    activations.

    Args:
        tuned: The model and what of it trains.
        data: Images to train on and to choose by.
        config: Settings of the run.
        accelerator: Device, precision and processes.

    Returns:
        The head with its data, or None where it has to be done image by image.
    """
    head = _trained_module(tuned)
    if head is None or not _is_repeatable(tuned, head, config):
        return None
    probe = _first_batch(data.train, config, accelerator)
    feature = _feature_if_sufficient(tuned, head, probe, accelerator)
    if feature is None:
        return None
    size = feature.nbytes // len(feature) * (data.train_images + data.validation_images)
    if size > _LIMIT_BYTES:
        return None
    train = _compute(tuned, head, data.train, data.train_images, config, accelerator)
    validation = None
    if data.validation is not None:
        validation = _compute(tuned, head, data.validation, data.validation_images, config, accelerator)
    return CachedData(head, FitData(train, validation, data.num_classes, data.name_of))


def _trained_module(tuned: Tuned) -> nn.Module | None:
    """The one module of the head that holds everything that trains."""
    for path in tuned.anatomy.head:
        if all(name.startswith(f"{path}.") for name in tuned.state()):
            return tuned.model.get_submodule(path)
    return None


def _is_repeatable(tuned: Tuned, head: nn.Module, config: TrainConfig) -> bool:
    if tuned.policies or config.augment != "none" or config.mixup or config.cutmix or config.drop_path:
        return False
    # Whatever acts at random only in training has a rate: dropout p, drop_path drop_prob, attention's own
    # dropout.
    inside = set(head.modules())
    return not any(
        getattr(module, rate, 0)
        for module in tuned.model.modules()
        if module not in inside
        for rate in ("p", "drop_prob", "prob", "attn_dropout_p", "dropout_prob", "attention_dropout")
        if isinstance(getattr(module, rate, 0), int | float)
    )


def _first_batch(dataset: Dataset[Any], config: TrainConfig, accelerator: Accelerator) -> Tensor:
    keys = evaluation_batches(min(2, config.batch_size), config.batch_size)
    images, _, _ = next(iter(make_loader(dataset, keys, 0)))
    return images.to(accelerator.device)


class _Catch:
    """Remembers what goes into a module."""

    def __init__(self, module: nn.Module) -> None:
        self.inputs: list[Tensor] = []
        self._hook = module.register_forward_pre_hook(self._note)

    def _note(self, module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        self.inputs.extend(arguments)

    def __enter__(self) -> _Catch:
        return self

    def __exit__(self, *exception: object) -> None:
        self._hook.remove()


@torch.no_grad()
def _feature_if_sufficient(
    tuned: Tuned, head: nn.Module, images: Tensor, accelerator: Accelerator
) -> Tensor | None:
    """The head's input, if training mode does not change it and the head's output on it is the logits."""
    with evaluation_mode(tuned.model), accelerator.autocast(), _Catch(head) as catch:
        logits = tuned(images)
        if len(catch.inputs) != 1 or not torch.equal(head(catch.inputs[0]), logits):
            return None
        feature = catch.inputs[0]
        train_mode(tuned)
        tuned(images)
    return feature if torch.equal(catch.inputs[-1], feature) else None


@torch.no_grad()
def _compute(
    tuned: Tuned,
    head: nn.Module,
    dataset: Dataset[Any],
    images: int,
    config: TrainConfig,
    accelerator: Accelerator,
) -> Features:
    features: list[Tensor] = []
    labels: list[Tensor] = []
    loader = make_loader(dataset, evaluation_batches(images, config.batch_size), config.workers)
    with evaluation_mode(tuned.model), accelerator.autocast():
        for inputs, targets, _ in loader:
            with _Catch(head) as catch:
                tuned(inputs.to(accelerator.device))
            features.append(catch.inputs[0].cpu())
            labels.append(targets)
    return Features(torch.cat(features), torch.cat(labels))
