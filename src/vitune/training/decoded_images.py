"""All images of a split, decoded once into one uint8 tensor."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vitune.training.interrupt import ignore_interrupts

if TYPE_CHECKING:
    from vitune.data import Samples

_SHARE_OF_MEMORY = 0.5
_DECODE_BATCH = 256


@dataclass(frozen=True)
class DecodedImages:
    """The images of one split.

    Attributes:
        pixels: (N, 3, S, S) uint8.
        labels: (N,) int64.
    """

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> DecodedImages:
        """The same images on a device.

        Args:
            device: Where to; when it has too little free memory for them, they stay where they are.
        """
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            if self.pixels.nbytes > _SHARE_OF_MEMORY * free:
                return self
        return DecodedImages(self.pixels.to(device), self.labels.to(device))


def decode_images(samples: Samples, size: int, workers: int, spill: Path) -> DecodedImages:
    """Decode all images of a split.

    Args:
        samples: The split.
        size: Height and width in pixels; an image of another shape is scaled to cover the square and cropped
            at its centre.
        workers: Processes that decode.
        spill: File that holds the pixels, mapped into memory, where half of the free memory is too small for
            them.

    Returns:
        The images, in the order of the samples, on the CPU.
    """
    shape = (len(samples), 3, size, size)
    pixels = _allocate(shape, spill)
    loader = DataLoader(
        _Squares(samples, size),
        batch_size=_DECODE_BATCH,
        num_workers=workers,
        worker_init_fn=ignore_interrupts if workers else None,
        generator=torch.Generator(),  # else the loader draws from the global one
    )
    done = 0
    for batch in loader:
        pixels[done : done + len(batch)] = batch
        done += len(batch)
    return DecodedImages(pixels, torch.tensor(list(samples.labels), dtype=torch.int64))


def _allocate(shape: tuple[int, int, int, int], spill: Path) -> Tensor:
    count = shape[0] * shape[1] * shape[2] * shape[3]
    if count <= _SHARE_OF_MEMORY * psutil.virtual_memory().available:
        return torch.empty(shape, dtype=torch.uint8)
    return torch.from_file(str(spill), shared=True, size=count, dtype=torch.uint8).view(shape)


class _Squares(Dataset[Tensor]):
    def __init__(self, samples: Samples, size: int) -> None:
        self._samples = samples
        self._size = size

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Tensor:
        image = self._samples.image(index)
        side = (self._size, self._size)
        if image.size != side:
            image = ImageOps.fit(image, side, Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)
