from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitune.data import EpochSampler
from vitune.errors import ConfigError


@given(n=st.integers(0, 40), batch_size=st.integers(1, 9), drop_last=st.booleans(), start=st.integers(0, 8))
def test_starting_later_gives_what_is_left(n, batch_size, drop_last, start):
    whole = list(EpochSampler(n, 1, batch_size, drop_last, 4))
    rest = EpochSampler(n, 1, batch_size, drop_last, 4, start)
    assert list(rest) == whole[start:]
    assert len(rest) == len(whole[start:])
    assert rest.batches_per_epoch == len(whole)


@given(n=st.integers(1, 40), batch_size=st.integers(1, 9), epoch=st.integers(0, 3))
def test_every_sample_comes_once_with_its_epoch(n, batch_size, epoch):
    batches = list(EpochSampler(n, 0, batch_size, False, epoch))
    assert sorted(pair for batch in batches for pair in batch) == [(epoch, index) for index in range(n)]
    assert all(len(batch) == batch_size for batch in batches[:-1])
    dropped = list(EpochSampler(n, 0, batch_size, True, epoch))
    assert dropped == [batch for batch in batches if len(batch) == batch_size]


def test_order_is_a_function_of_seed_and_epoch():
    def order(seed: int, epoch: int) -> list[int]:
        return [index for _, index in next(iter(EpochSampler(50, seed, 50, epoch=epoch)))]

    orders = {(seed, epoch): tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}
    assert len(set(orders.values())) == 4
    assert all(tuple(order(*key)) == value for key, value in orders.items())
    assert tuple(range(50)) not in orders.values()


def test_set_epoch_goes_to_the_start_of_another():
    sampler = EpochSampler(10, 0, 3, epoch=2, start_batch=2)
    assert len(sampler) == 2
    sampler.set_epoch(3)
    assert list(sampler) == list(EpochSampler(10, 0, 3, epoch=3))
    sampler.set_epoch(3, start_batch=1)
    assert list(sampler) == list(EpochSampler(10, 0, 3, epoch=3))[1:]


def test_without_shuffling():
    assert list(EpochSampler(3, 0, 2, shuffle=False)) == [[(0, 0), (0, 1)], [(0, 2)]]


@pytest.mark.parametrize("change", [{"n": -1}, {"batch_size": 0}, {"start_batch": -1}])
def test_out_of_range(change):
    with pytest.raises(
        ConfigError, match="n and start_batch must be at least 0 and batch_size at least 1, not"
    ):
        EpochSampler(**({"n": 4, "seed": 0, "batch_size": 2} | change))
