from __future__ import annotations

from itertools import chain

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vitune.errors import ConfigError
from vitune.training.batches import (
    StepSampler,
    check_batch_size,
    evaluation_batches,
    make_loader,
    own_count,
    own_part,
    steps_per_epoch,
)

from .small import SmallImages


def test_refuses_a_batch_that_the_data_cannot_fill() -> None:
    check_batch_size(10, 10)
    with pytest.raises(
        ConfigError, match="batch_size 64 is larger than the 40 training images; use 40 or less"
    ):
        check_batch_size(64, 40)


def test_any_step_can_be_the_first_one() -> None:
    whole = list(StepSampler(10, 4, seed=5, first=0, last=9))
    assert len(whole) == 9
    assert [len(batch) for batch in whole] == [4, 4, 2] * 3
    for first in range(9):
        assert list(StepSampler(10, 4, seed=5, first=first, last=9)) == whole[first:]


def test_a_last_batch_that_is_not_full_may_be_left_out() -> None:
    whole = list(StepSampler(10, 4, seed=5, first=0, last=6))
    full = list(StepSampler(10, 4, seed=5, first=0, last=4, drop_last=True))
    assert full == [whole[0], whole[1], whole[3], whole[4]]
    assert list(StepSampler(10, 4, seed=5, first=3, last=4, drop_last=True)) == full[3:]


def test_every_epoch_uses_every_image_once_in_an_order_of_its_own() -> None:
    whole = list(StepSampler(10, 4, seed=5, first=0, last=6))
    epochs = [list(chain(*whole[:3])), list(chain(*whole[3:]))]
    assert [{epoch for epoch, _ in keys} for keys in epochs] == [{0}, {1}]
    orders = [[index for _, index in keys] for keys in epochs]
    assert [sorted(order) for order in orders] == [list(range(10))] * 2
    assert orders[0] != orders[1]


@given(st.integers(1, 40), st.integers(1, 7))
def test_processes_share_a_batch_in_mirrored_pairs(size: int, world: int) -> None:
    batch = list(range(size))
    parts = [own_part(batch, rank, world) for rank in range(world)]
    counts = [own_count(size, rank, world) for rank in range(world)]
    assert sum(counts) == size
    counted = [part for part, count in zip(parts, counts, strict=True) if count]
    assert sorted(chain(*counted)) == batch
    for part, count in zip(parts, counts, strict=True):
        if count:
            assert len(part) == count
            # What mixup pairs in this process is what it would pair in the whole batch.
            assert all(one + other == size - 1 for one, other in zip(part, reversed(part), strict=True))
        else:
            assert part == [0]


def test_one_process_has_the_batch_in_its_order() -> None:
    assert own_part("abcde", 0, 1) == list("abcde")


@given(st.integers(1, 30), st.integers(1, 8), st.integers(1, 4))
def test_evaluation_sees_every_image_once(images: int, batch_size: int, world: int) -> None:
    keys = [
        key for rank in range(world) for key in chain(*evaluation_batches(images, batch_size, rank, world))
    ]
    assert sorted(keys) == [(0, index) for index in range(images)]


def test_loading_leaves_the_global_random_state_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    loader = make_loader(SmallImages(6), StepSampler(6, 4, 0, 0, 2), workers=0)
    sizes = [len(images) for images, _, _ in loader]
    assert sizes == [4, 2]
    assert torch.equal(torch.get_rng_state(), before)


def test_the_last_batch_of_an_epoch_may_be_smaller() -> None:
    assert [steps_per_epoch(images, 4) for images in (4, 5, 8, 9)] == [1, 2, 2, 3]
    assert [steps_per_epoch(images, 4, drop_last=True) for images in (4, 5, 8, 9)] == [1, 1, 2, 2]
