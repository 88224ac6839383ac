from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitune.tasks.classification import DataSettings, ModelSettings, RunResult, TrainRequest, train
from vitune.training import TrainConfig

COLOURS = {"blue": (40, 40, 200), "green": (40, 200, 40), "red": (200, 40, 40)}


@pytest.fixture(scope="session")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image folder: noisy squares of three colours, split into train, val and test."""
    root = tmp_path_factory.mktemp("data") / "colours"
    noise = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4), ("test", 4)):
        for name, colour in COLOURS.items():
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = np.array(colour) + noise.normal(0, 40, (24, 24, 3))
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{i}.png")
    return root


def small_request(folder: Path, out: Path, **changes: object) -> TrainRequest:
    training = TrainConfig(epochs=2, lr=1e-2, batch_size=8, workers=0, device="cpu", log_every=1)
    return TrainRequest(
        **{
            "data": DataSettings(path=folder),
            "model": ModelSettings(),
            "method": "lora(rank=2)",
            "training": training,
            "out": out,
            **changes,
        }
    )


@pytest.fixture(scope="session")
def run(colours: Path, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """A finished run with a final test."""
    out = tmp_path_factory.mktemp("runs") / "colours"
    return train(small_request(colours, out, final_test=True, command="vitune train colours --method lora"))


@pytest.fixture
def class_folders() -> Callable[..., Path]:
    """Make folders of `count` small images for each class."""

    def make(root: Path, classes: Iterable[str], count: int = 1) -> Path:
        for number, name in enumerate(classes):
            (root / name).mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (8, 8), (number % 256, 40 * i, 90)).save(root / name / f"{i}.png")
        return root

    return make


@pytest.fixture(scope="session")
def skipping_run(colours: Path, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """A finished run of a model that skips tokens."""
    out = tmp_path_factory.mktemp("runs") / "skipping"
    return train(small_request(colours, out, method="dyt(bottleneck=2)"))
