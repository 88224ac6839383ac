"""Samples as tensors, each a function of (seed, epoch, index) alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from vitune.data.cache import CacheMode, open_cache
from vitune.data.samples import Samples
from vitune.errors import ConfigError
from vitune.randomness import derive_seed, preserved_randomness, reseed

Key = int | tuple[int, int]
Item = tuple[Tensor, int, int]


class Pipeline(Dataset[Item]):
    """A torch data set of transformed samples.

    Item i of epoch e depends on (seed, e, i) and nothing else: not on the worker that reads it, on what was
    read before, or on the cache. Ask for it as `pipeline[e, i]`, which `EpochSampler` does; `pipeline[i]` is
    item i of the epoch that `set_epoch` named in this process, which workers that are kept between epochs do
    not hear of.

    Args:
        samples: What to read.
        transform: From an RGB picture to a tensor; may draw from Python's, numpy's and torch's global
            generators, which are seeded before each item and restored after it.
        seed: Seed of the run.
        cache: Keep decoded images in memory: True, False, or "auto" if they are small.

    Raises:
        ConfigError: If `cache` is something else.
        DataError: If an image cannot be read: here where it is cached, else when it is asked for.
    """

    def __init__(
        self,
        samples: Samples,
        transform: Callable[[Image.Image], Tensor],
        seed: int,
        *,
        cache: CacheMode = "auto",
    ) -> None:
        if cache not in ("auto", True, False):
            raise ConfigError(f"cache is {cache!r}; use 'auto', True or False.")
        self.samples = samples
        self.transform = transform
        self.seed = seed
        self.epoch = 0
        self._decoded = open_cache(samples, cache)

    @property
    def cached_bytes(self) -> int:
        """Bytes of decoded pixels kept in memory; 0 without a cache."""
        return 0 if self._decoded is None else self._decoded.nbytes

    def set_epoch(self, epoch: int) -> None:
        """Name the epoch of items that are asked for by index alone."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: Key) -> Item:
        """One item.

        Args:
            key: (epoch, index), or an index of the current epoch.

        Returns:
            The transformed image (channels, height, width), its label and its index.

        Raises:
            DataError: If the image cannot be read.
            IndexError: If there is no such sample.
        """
        with preserved_randomness():
            return self._item(key)

    def __getitems__(self, keys: list[Key]) -> list[Item]:
        """The items of a batch, as torch's loader asks for them; the same as one by one, but quicker."""
        with preserved_randomness():
            return [self._item(key) for key in keys]

    def _item(self, key: Key) -> Item:
        epoch, index = key if isinstance(key, tuple) else (self.epoch, key)
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is not among the {len(self)} samples")
        image = self.samples.image(index) if self._decoded is None else self._decoded.image(index)
        reseed(derive_seed(self.seed, "augment", epoch, index))
        return self.transform(image), self.samples.labels[index], index


def collate(items: list[Item]) -> tuple[Tensor, Tensor, Tensor]:
    """Stack items into a batch.

    Args:
        items: What `Pipeline` gives.

    Returns:
        Images (B, channels, height, width), labels (B,) int64 and indices (B,) int64.
    """
    images, labels, indices = zip(*items, strict=True)
    return torch.stack(images), torch.tensor(labels), torch.tensor(indices)
