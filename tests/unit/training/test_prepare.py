from __future__ import annotations

import dataclasses

import torch

from vitune.training.prepare import PreparationBatches

from .small import small_config, small_data


def test_gives_the_training_images_once_each_time_it_is_iterated() -> None:
    batches = PreparationBatches(small_data(20), small_config(), torch.device("cpu"))
    assert len(batches) == 3
    first, second = list(batches), list(batches)
    assert [len(labels) for _, labels in first] == [8, 8, 4]
    assert torch.cat([labels for _, labels in first]).bincount().tolist() == [7, 7, 6]
    for (images, labels), (again, same) in zip(first, second, strict=True):
        assert torch.equal(images, again)
        assert torch.equal(labels, same)


def test_the_images_can_be_had_without_augmentation() -> None:
    plain = small_data(8).train
    data = dataclasses.replace(small_data(8, noise=0.1, augment=True), unaugmented=plain)
    batches = PreparationBatches(data, small_config(), torch.device("cpu"))
    ((images, labels),) = batches.unaugmented
    ((augmented, same_labels),) = batches
    assert torch.equal(labels, same_labels)
    assert not torch.equal(images, augmented)
    own = torch.stack([plain[0, index][0] for index in range(8)])
    assert sorted(images.sum((1, 2, 3)).tolist()) == sorted(own.sum((1, 2, 3)).tolist())
