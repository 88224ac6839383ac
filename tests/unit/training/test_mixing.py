from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from vitune.training.batches import own_part
from vitune.training.mixing import Mixing

from .small import CLASSES, small_config

CONFIG = dataclasses.replace(small_config(), mixup=0.8, cutmix=0.5, label_smoothing=0.1)


def images(count: int) -> torch.Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def labels(count: int) -> torch.Tensor:
    return torch.arange(count) % CLASSES


def test_depends_on_the_seed_and_the_step_alone() -> None:
    first = Mixing(CONFIG, CLASSES)(images(8), labels(8), step=3)
    np.random.seed(99)
    again = Mixing(CONFIG, CLASSES)(images(8), labels(8), step=3)
    later = Mixing(CONFIG, CLASSES)(images(8), labels(8), step=4)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], later[0])


def test_leaves_the_global_random_state_alone() -> None:
    np.random.seed(7)
    expected = np.random.rand()
    np.random.seed(7)
    Mixing(CONFIG, CLASSES)(images(8), labels(8), step=3)
    assert np.random.rand() == expected


@pytest.mark.parametrize("count", [8, 7, 1])
def test_targets_are_probabilities_and_inputs_are_mixed_with_the_mirrored_image(count: int) -> None:
    config = dataclasses.replace(CONFIG, cutmix=0.0)
    before = images(count)
    mixed, targets = Mixing(config, CLASSES)(before.clone(), labels(count), step=0)
    assert targets.shape == (count, CLASSES)
    assert torch.allclose(targets.sum(1), torch.ones(count))
    share = (
        ((mixed - before.flip(0)) / (before - before.flip(0)))[0, 0, 0, 0] if count > 1 else torch.tensor(1.0)
    )
    if count % 2:
        assert torch.equal(mixed[count // 2], before[count // 2])
    for i in range(count // 2):
        expected = share * before[i] + (1 - share) * before[count - 1 - i]
        assert torch.allclose(mixed[i], expected, atol=1e-5)


def test_two_processes_mix_as_one_does() -> None:
    whole, targets = Mixing(CONFIG, CLASSES)(images(10), labels(10), step=5)
    for rank in range(2):
        places = own_part(range(10), rank, 2)
        part, own = Mixing(CONFIG, CLASSES)(images(10)[places], labels(10)[places], step=5)
        assert torch.equal(part, whole[places])
        assert torch.equal(own, targets[places])
