"""The order of an epoch's samples, from any batch on."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from vitune.errors import ConfigError
from vitune.randomness import derive_seed


class EpochSampler(Sampler[list[tuple[int, int]]]):
    """A batch sampler of (epoch, index) pairs whose order is a function of (seed, epoch).

    The pairs carry the epoch to data workers, also to those that are kept between epochs. Starting at batch k
    gives exactly what is left after k batches, so a run can resume inside an epoch.

    Args:
        n: Number of samples.
        seed: Seed of the run.
        batch_size: Samples in a batch.
        drop_last: Leave out a last batch that is not full.
        epoch: The epoch, from 0.
        start_batch: Batches of that epoch that are already done.
        shuffle: False gives the samples in their own order.

    Raises:
        ConfigError: If a number is out of range.
    """

    def __init__(
        self,
        n: int,
        seed: int,
        batch_size: int,
        drop_last: bool = False,
        epoch: int = 0,
        start_batch: int = 0,
        *,
        shuffle: bool = True,
    ) -> None:
        if n < 0 or batch_size < 1 or start_batch < 0:
            raise ConfigError(
                f"batches: n and start_batch must be at least 0 and batch_size at least 1, "
                f"not {n}, {start_batch} and {batch_size}."
            )
        self.n = n
        self.seed = seed
        self.batch_size = batch_size
        self.drop_last = drop_last
        self.shuffle = shuffle
        self.set_epoch(epoch, start_batch)

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Go to an epoch, at its start unless told otherwise."""
        self.epoch = epoch
        self.start_batch = start_batch

    @property
    def batches_per_epoch(self) -> int:
        """Batches of a whole epoch."""
        return self.n // self.batch_size if self.drop_last else -(-self.n // self.batch_size)

    def __len__(self) -> int:
        return max(self.batches_per_epoch - self.start_batch, 0)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = self._order()
        for batch in range(self.start_batch, self.batches_per_epoch):
            start = batch * self.batch_size
            yield [(self.epoch, index) for index in order[start : start + self.batch_size]]

    def _order(self) -> list[int]:
        if not self.shuffle:
            return list(range(self.n))
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", self.epoch))
        return torch.randperm(self.n, generator=generator).tolist()
