"""Batches of images as a function of the step alone, whatever the number of workers and processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from vitune.data import EpochSampler, collate
from vitune.errors import ConfigError
from vitune.training.interrupt import ignore_interrupts

T = TypeVar("T")
Key = tuple[int, int]
"""Epoch and index of an image: what a data set is asked for."""


def check_batch_size(batch_size: int, images: int) -> None:
    """Refuse a batch that the training images cannot fill.

    Args:
        batch_size: Images per step.
        images: Training images.

    Raises:
        ConfigError: If there are fewer images than that.
    """
    if batch_size > images:
        raise ConfigError(
            f"batch_size {batch_size} is larger than the {images} training images; use {images} or less."
        )


class StepSampler(Sampler[list[Key]]):
    """The batches of consecutive steps, running through epochs without a break, so that workers never idle.

    Args:
        images: Number of training images.
        batch_size: Images per step, over all processes.
        seed: Seed of the order.
        first: The first step to give, counted from the start of the run.
        last: The step to end before.
        rank: Number of this process.
        world: Number of processes.
        drop_last: Leave out the last batch of an epoch where it is not full.
    """

    def __init__(
        self,
        images: int,
        batch_size: int,
        seed: int,
        first: int,
        last: int,
        rank: int = 0,
        world: int = 1,
        *,
        drop_last: bool = False,
    ) -> None:
        self._images, self._batch_size, self._seed = images, batch_size, seed
        self._first, self._last = first, last
        self._rank, self._world, self._drop_last = rank, world, drop_last

    def __len__(self) -> int:
        return self._last - self._first

    def __iter__(self) -> Iterator[list[Key]]:
        per_epoch = steps_per_epoch(self._images, self._batch_size, drop_last=self._drop_last)
        step = self._first
        while step < self._last:
            epoch, start = divmod(step, per_epoch)
            for batch in EpochSampler(
                self._images,
                self._seed,
                self._batch_size,
                drop_last=self._drop_last,
                epoch=epoch,
                start_batch=start,
            ):
                if step == self._last:
                    return
                yield own_part(list(batch), self._rank, self._world)
                step += 1


def steps_per_epoch(images: int, batch_size: int, *, drop_last: bool = False) -> int:
    """Steps that use every image once; the last batch may be smaller.

    Args:
        images: Training images.
        batch_size: Images per step.
        drop_last: Whether a smaller last batch is left out.
    """
    return images // batch_size if drop_last else -(-images // batch_size)


def own_part(batch: Sequence[T], rank: int, world: int) -> list[T]:
    """The part of a global batch that one process trains on.

    It is symmetric about the middle of the batch: mixup pairs the first image with the last and so on, and
    both of a pair must be in the same process. A process for which nothing is left gets the first image, to
    be weighed with zero, since every process has to take part in a step.

    Args:
        batch: The global batch.
        rank: Number of the process.
        world: Number of processes.
    """
    half = len(batch) // 2
    left = range(half * rank // world, half * (rank + 1) // world)
    middle = [half] if len(batch) % 2 and rank == world - 1 else []
    places = [*left, *middle, *(len(batch) - 1 - place for place in reversed(left))]
    return [batch[place] for place in places] or [batch[0]]


def own_count(batch_size: int, rank: int, world: int) -> int:
    """Images of `own_part` that count.

    Args:
        batch_size: Images of the global batch.
        rank: Number of the process.
        world: Number of processes.
    """
    half = batch_size // 2
    pairs = half * (rank + 1) // world - half * rank // world
    return 2 * pairs + (batch_size % 2 if rank == world - 1 else 0)


def make_loader(
    dataset: Dataset[Any],
    batches: Sampler[list[Key]] | Sequence[list[Key]],
    workers: int,
    *,
    pin: bool = False,
) -> DataLoader[Any]:
    """A loader of (images, labels, indices).

    Args:
        dataset: Gives an image and its label for an (epoch, index).
        batches: The keys of each batch.
        workers: Processes that read; 0 reads in this one.
        pin: Whether to use pinned memory, which makes copies to a GPU quicker.
    """
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin,
        worker_init_fn=ignore_interrupts,
        persistent_workers=workers > 0,
        # A generator of its own: a loader draws a seed, and must not draw it from the global state.
        generator=torch.Generator(),
    )


def evaluation_batches(images: int, batch_size: int, rank: int = 0, world: int = 1) -> list[list[Key]]:
    """Every image once, in order, dealt out to the processes.

    Args:
        images: Number of images.
        batch_size: Images per batch and process.
        rank: Number of this process.
        world: Number of processes.
    """
    own = [(0, index) for index in range(rank, images, world)]
    return [own[start : start + batch_size] for start in range(0, len(own), batch_size)]
