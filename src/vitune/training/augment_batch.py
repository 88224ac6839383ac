"""Augmentation of whole batches as a few tensor operations, on any device.

Every random number is drawn on the CPU from a given seed, so that a batch is the same on every device.
Tensor letters: B batch, S side of the output in pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_MIN_ASPECT, _MAX_ASPECT = 3 / 4, 4 / 3
_MIN_ERASED_AREA, _MAX_ERASED_AREA = 0.02, 0.25
_GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601 luma, as Pillow's grey


@dataclass(frozen=True, kw_only=True)
class BatchAugmentation:
    """Random resized crop, mirroring, colour jitter and erasing of one batch, then normalisation.

    Args:
        crop_min_area: Smallest share of the area that a crop keeps.
        flip: Whether half of the images are mirrored.
        jitter: Brightness, contrast and saturation are each scaled by 1 - jitter to 1 + jitter.
        erase: Share of the images that lose a rectangle.
        mean: Mean of each channel, of values from 0 to 1.
        std: Standard deviation of each channel.
    """

    crop_min_area: float
    flip: bool
    jitter: float
    erase: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, images: Tensor, seed: int) -> Tensor:
        """Augment a batch.

        Args:
            images: (B, 3, S, S) uint8.
            seed: All that is random is a function of it.

        Returns:
            (B, 3, S, S) float, normalised, on the device of the images.
        """
        draw = torch.Generator().manual_seed(seed)
        count = len(images)
        pixels = images.float().div_(255)
        if self.crop_min_area < 1 or self.flip:
            theta = self._crops(count, draw).to(images.device)
            grid = F.affine_grid(theta, list(images.shape), align_corners=False)
            pixels = F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
        if self.jitter:
            pixels = self._jittered(pixels, draw)
        pixels = normalise(pixels, self.mean, self.std)
        if self.erase:
            # Zero is the mean colour once normalised.
            pixels.masked_fill_(self._erased(count, images.shape[-1], draw).to(images.device), 0.0)
        return pixels

    def _crops(self, count: int, draw: torch.Generator) -> Tensor:
        """(B, 2, 3): for each image where its crop lies, mirrored or not, in coordinates from -1 to 1."""
        area = _uniform(count, self.crop_min_area, 1.0, draw)
        aspect = _uniform(count, math.log(_MIN_ASPECT), math.log(_MAX_ASPECT), draw).exp()
        if self.crop_min_area == 1:
            aspect = torch.ones(count)
        width = (area * aspect).sqrt().clamp(max=1.0)
        height = (area / aspect).sqrt().clamp(max=1.0)
        theta = torch.zeros(count, 2, 3)
        theta[:, 0, 0] = width
        theta[:, 1, 1] = height
        theta[:, 0, 2] = _uniform(count, -1.0, 1.0, draw) * (1 - width)
        theta[:, 1, 2] = _uniform(count, -1.0, 1.0, draw) * (1 - height)
        if self.flip:
            theta[:, 0, 0] *= torch.where(torch.rand(count, generator=draw) < 0.5, -1.0, 1.0)
        return theta

    def _jittered(self, pixels: Tensor, draw: torch.Generator) -> Tensor:
        factors = _uniform(3 * len(pixels), 1 - self.jitter, 1 + self.jitter, draw).to(pixels.device)
        brightness, contrast, saturation = factors.view(3, -1, 1, 1, 1)
        grey = (pixels * pixels.new_tensor(_GREY).view(3, 1, 1)).sum(1, keepdim=True)
        mean = grey.mean((2, 3), keepdim=True)
        # All three are linear in the pixels: x -> b (m + c (g + s (x - g) - m)), here as one sum.
        pixels = pixels * (brightness * contrast * saturation)
        pixels += grey * (brightness * contrast * (1 - saturation)) + mean * (brightness * (1 - contrast))
        return pixels.clamp_(0, 1)

    def _erased(self, count: int, side: int, draw: torch.Generator) -> Tensor:
        """(B, 1, S, S) bool: the pixels that are lost."""
        area = _uniform(count, _MIN_ERASED_AREA, _MAX_ERASED_AREA, draw)
        aspect = _uniform(count, math.log(0.5), math.log(2.0), draw).exp()
        half_width, half_height = (area * aspect).sqrt() / 2, (area / aspect).sqrt() / 2
        chosen = torch.rand(count, generator=draw) < self.erase
        place = (torch.arange(side) + 0.5) / side
        centre_x, centre_y = torch.rand(2, count, 1, generator=draw)
        columns = ((place - centre_x).abs() < half_width[:, None]) & chosen[:, None]
        rows = (place - centre_y).abs() < half_height[:, None]
        return (rows[:, :, None] & columns[:, None, :])[:, None]


def normalise(pixels: Tensor, mean: tuple[float, float, float], std: tuple[float, float, float]) -> Tensor:
    """Subtract the mean and divide by the standard deviation of each channel.

    Args:
        pixels: (B, 3, S, S) float, from 0 to 1.
        mean: Mean of each channel.
        std: Standard deviation of each channel.

    Returns:
        (B, 3, S, S), a new tensor.
    """
    return (pixels - pixels.new_tensor(mean).view(3, 1, 1)) / pixels.new_tensor(std).view(3, 1, 1)


def _uniform(count: int, low: float, high: float, draw: torch.Generator) -> Tensor:
    return torch.rand(count, generator=draw) * (high - low) + low
