"""Decoded images kept in memory, since small data sets spend their epochs decoding the same files."""

from __future__ import annotations

import os
from typing import Literal

import numpy as np
from PIL import Image

from vitune.data.samples import Samples
from vitune.data.verify import in_threads

CacheMode = Literal["auto"] | bool
CACHE_LIMIT_BYTES = 1 << 30
_CHANNELS = 3


class DecodedImages:
    """All images of some samples as uint8 pixels in one array.

    Workers that are forked read the parent's copy. What is read back is bit for bit what `Samples.image`
    gives.

    Args:
        samples: The images; all are decoded now.

    Raises:
        DataError: If one cannot be read.
    """

    def __init__(self, samples: Samples) -> None:
        pixels = in_threads(lambda index: np.asarray(samples.image(index)), list(range(len(samples))))
        self._shapes = [image.shape for image in pixels]
        self._starts = np.cumsum([0, *(image.size for image in pixels)])
        self._flat = np.concatenate([image.reshape(-1) for image in pixels])

    @property
    def nbytes(self) -> int:
        """Bytes of pixels held."""
        return self._flat.nbytes

    def image(self, index: int) -> Image.Image:
        """One image as RGB."""
        flat = self._flat[self._starts[index] : self._starts[index + 1]]
        return Image.fromarray(flat.reshape(self._shapes[index]))


def open_cache(samples: Samples, mode: CacheMode, limit_bytes: int | None = None) -> DecodedImages | None:
    """The cache that a mode asks for, or None.

    Args:
        samples: The images.
        mode: True decodes all, whatever their size. "auto" does so if they fit in `limit_bytes`; to know, it
            reads the headers. False never does.
        limit_bytes: None: `CACHE_LIMIT_BYTES`, or a quarter of the machine's memory if that is less.
    """
    if mode is False or len(samples) == 0:
        return None
    if mode is True or _fits(samples, _default_limit() if limit_bytes is None else limit_bytes):
        return DecodedImages(samples)
    return None


def _fits(samples: Samples, limit_bytes: int) -> bool:
    total = 0
    for index in range(len(samples)):
        width, height = samples.size(index)
        total += width * height * _CHANNELS
        if total > limit_bytes:
            return False
    return True


def _default_limit() -> int:
    memory = (
        os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if hasattr(os, "sysconf")
        else CACHE_LIMIT_BYTES
    )
    return min(CACHE_LIMIT_BYTES, memory // 4)
