"""Say what is on images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from vitune.data import build_transform, list_images, read_image
from vitune.errors import ConfigError
from vitune.tasks.trained import open_run
from vitune.training.config import Device, Precision
from vitune.training.modes import evaluation_mode


@dataclass(frozen=True)
class Guess:
    """A class and how probable it is."""

    class_name: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """What a run says about one image.

    Attributes:
        path: The image.
        guesses: The most probable classes, best first.
    """

    path: Path
    guesses: tuple[Guess, ...]


def predict(
    run: Path,
    paths: Sequence[Path],
    *,
    top_k: int = 5,
    weights: Path | None = None,
    batch_size: int = 32,
    device: Device = "auto",
    precision: Precision = "fp32",
) -> list[Prediction]:
    """Say what is on images.

    Args:
        run: The run directory.
        paths: Image files, and folders of them.
        top_k: Number of classes to name for each.
        weights: File with the backbone's weights, if they are no longer where they were.
        batch_size: Images at a time.
        device: Where to compute.
        precision: In which precision.

    Raises:
        ConfigError: If a setting is out of range.
        DataError: If there is no image, or one cannot be read.
        AdapterError: If the adapter cannot be loaded.
    """
    for name, value in (("top_k", top_k), ("batch_size", batch_size)):
        if value < 1:
            raise ConfigError(f"{name} is {value}; it must be at least 1.")
    files = list_images(paths)
    trained = open_run(run, weights=weights, device=device, precision=precision)
    transform = build_transform(trained.preprocessing, train=False)
    top_k = min(top_k, len(trained.class_names))
    predictions: list[Prediction] = []
    for start in range(0, len(files), batch_size):
        batch = files[start : start + batch_size]
        images = torch.stack([transform(read_image(path)) for path in batch]).to(trained.accelerator.device)
        with evaluation_mode(trained.tuned.model), torch.no_grad(), trained.accelerator.autocast():
            logits = trained.tuned(images)
        best = logits.float().softmax(dim=1).topk(top_k)
        for path, values, classes in zip(batch, best.values.tolist(), best.indices.tolist(), strict=True):
            names = [trained.class_names[index] for index in classes]
            guesses = tuple(Guess(name, value) for name, value in zip(names, values, strict=True))
            predictions.append(Prediction(path, guesses))
    return predictions
