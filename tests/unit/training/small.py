"""A ViT and images small enough for hundreds of steps a second."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.utils.data import Dataset

import vitune
from vitune.randomness import derive_seed
from vitune.training import FitData, TrainConfig
from vitune.tuned import Tuned

CLASSES = 3


class SmallImages(Dataset[Any]):
    """Noise around a pattern for each class; image i of epoch e is a function of (e, i)."""

    def __init__(
        self, images: int, *, noise: float = 0.5, augment: bool = False, bad: int | None = None
    ) -> None:
        self.images, self.noise, self.augment, self.bad = images, noise, augment, bad
        self.patterns = torch.randn(CLASSES, 3, 16, 16, generator=torch.Generator().manual_seed(7))

    def __len__(self) -> int:
        return self.images

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int, int]:
        epoch, index = key
        generator = torch.Generator().manual_seed(derive_seed(1, epoch if self.augment else 0, index))
        image = self.patterns[index % CLASSES] + self.noise * torch.randn(3, 16, 16, generator=generator)
        if index == self.bad:
            image = image * float("nan")
        return image, index % CLASSES, index


def small_model(**changes: Any) -> VisionTransformer:
    torch.manual_seed(3)
    arguments = {
        "img_size": 16,
        "patch_size": 8,
        "embed_dim": 16,
        "depth": 2,
        "num_heads": 2,
        "num_classes": CLASSES,
        **changes,
    }
    return VisionTransformer(**arguments)


def small_tuned(method: Any = None, **changes: Any) -> Tuned:
    return vitune.apply(small_model(**changes), method or vitune.LoRA(rank=2))


def small_data(train: int = 20, validation: int | None = 9, **changes: Any) -> FitData:
    held_out = None if validation is None else SmallImages(validation)
    return FitData(SmallImages(train, **changes), held_out, CLASSES, lambda index: f"image{index}.png")


def small_config(**changes: Any) -> TrainConfig:
    base = TrainConfig(
        epochs=3,
        lr=1e-2,
        batch_size=8,
        workers=0,
        device="cpu",
        precision="fp32",
        log_every=1,
        warmup_epochs=0.5,
    )
    return dataclasses.replace(base, **changes)


def without_clock(line: dict[str, Any]) -> dict[str, Any]:
    clocks = {"seconds", "images_per_second", "data_wait_share", "time"}
    return {name: value for name, value in line.items() if name not in clocks}
