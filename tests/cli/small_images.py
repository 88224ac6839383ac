"""Images of a few pixels whose class is their colour."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("ant", "bee", "cat")


def write_image(path: Path, channel: int, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 80, (16, 16, 3), dtype=np.uint8)
    pixels[..., channel] += 120
    Image.fromarray(pixels).save(path)


def write_classes(folder: Path, per_class: int, classes: tuple[str, ...] = CLASSES) -> Path:
    for channel, name in enumerate(classes):
        for number in range(per_class):
            write_image(folder / name / f"{number}.png", channel, seed=number)
    return folder


def write_splits(folder: Path, **per_class: int) -> Path:
    for split, count in per_class.items():
        write_classes(folder / split, count)
    return folder


def write_vtab(folder: Path) -> Path:
    """VTAB-1k lists: 18 training, 9 validation, 9 test images."""
    write_classes(folder / "images", 9)
    for name, numbers in {"train800": range(6), "val200": range(6, 9), "test": range(9)}.items():
        lines = [f"images/{kind}/{n}.png {label}" for label, kind in enumerate(CLASSES) for n in numbers]
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")
    train, val = ((folder / f"{name}.txt").read_text() for name in ("train800", "val200"))
    (folder / "train800val200.txt").write_text(train + val)
    return folder
