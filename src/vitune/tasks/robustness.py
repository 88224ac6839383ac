"""How models of ImageNet are tested on its other sets: which logits compete, and errors by corruption.

ImageNet-A and -R have 200 of the 1,000 classes, and the argmax is taken over these alone (their authors' evaluation);
ImageNetV2 and -Sketch have all. ImageNet-C averages over severities, then corruptions; its mean corruption error
divides by AlexNet's error first (hendrycks/robustness).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import mean
from typing import Literal

import torch
from torch import Tensor

from vitune.data import Samples
from vitune.data.corruptions import ALEXNET_ERROR, SEVERITIES, part_of
from vitune.data.imagenet import in_imagenet_order, restricted_set
from vitune.errors import ConfigError, did_you_mean
from vitune.training.evaluate import Evaluation

Competing = Literal["auto", "all", "present"]
COMPETING = ("auto", "all", "present")


@dataclass(frozen=True)
class Part:
    """Accuracy on the images of one corruption in one severity.

    Attributes:
        name: Corruption and severity, "fog/3".
        accuracy: Share of correct images.
        count: Number of images.
    """

    name: str
    accuracy: float
    count: int


@dataclass(frozen=True)
class CorruptionError:
    """Errors on corrupted images, each from 0 to 1.

    Attributes:
        by_corruption: Corruption to its error, the mean over the severities there are.
        mean_error: Mean over the corruptions of the benchmark that are there; over extra ones if there are no other.
        mce: Mean corruption error: the mean over the benchmark's 15 corruptions of the error divided by AlexNet's; None
            unless all are there in all severities and the classes are ImageNet's.
    """

    by_corruption: Mapping[str, float]
    mean_error: float
    mce: float | None


def restriction(samples: Samples, competing: Competing) -> tuple[str | None, list[int] | None]:
    """Whether only the classes of the images compete.

    Args:
        samples: The images, with the labels of the model's class map.
        competing: "present": the classes of the images. "all": all that the model has. "auto": those of the images
            where they are exactly the classes of ImageNet-A or -R, all otherwise.

    Returns:
        Name of the set ("imagenet-a"), or None; and the labels that compete, or None for all.

    Raises:
        ConfigError: If the choice is unknown.
    """
    if competing not in COMPETING:
        raise ConfigError(f"classes is '{competing}'. {did_you_mean(str(competing), COMPETING)}")
    present = sorted(set(samples.labels))
    name = restricted_set((samples.class_names[label] for label in present), samples.class_names)
    restricted = competing == "present" or (competing == "auto" and name is not None)
    return name, present if restricted else None


def only(forward: Callable[[Tensor], Tensor], labels: list[int]) -> Callable[[Tensor], Tensor]:
    """A forward pass whose other logits are minus infinity, and so neither predicted nor part of the loss.

    Args:
        forward: Gives logits (B, C).
        labels: The classes that compete.
    """

    def restricted(images: Tensor) -> Tensor:
        logits = forward(images)
        left_out = torch.ones(logits.shape[1], dtype=torch.bool, device=logits.device)
        left_out[labels] = False
        return logits.masked_fill(left_out, float("-inf"))

    return restricted


def by_part(samples: Samples, found: Evaluation) -> tuple[tuple[Part, ...], CorruptionError]:
    """Accuracies by corruption and severity, and the errors they make.

    Args:
        samples: Images of the layout of `vitune.data.corruptions`.
        found: What the model says about them.
    """
    right: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for index, hit in zip(found.index.tolist(), (found.label == found.predicted).tolist(), strict=True):
        right[part_of(samples.name(index))].append(hit)
    parts = tuple(Part("/".join(key), mean(hits), len(hits)) for key, hits in sorted(right.items()))
    errors: dict[str, list[float]] = defaultdict(list)
    for part in parts:
        errors[part.name.split("/")[0]].append(1 - part.accuracy)
    by_corruption = {name: mean(values) for name, values in errors.items()}
    official = [name for name in by_corruption if name in ALEXNET_ERROR]
    whole = len(official) == len(ALEXNET_ERROR) and all(
        len(errors[name]) == len(SEVERITIES) for name in official
    )
    mce = None
    if whole and in_imagenet_order(samples.class_names) is not None:
        mce = mean(by_corruption[name] / ALEXNET_ERROR[name] for name in official)
    return parts, CorruptionError(
        by_corruption, mean(by_corruption[name] for name in official or by_corruption), mce
    )
