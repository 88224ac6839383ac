from __future__ import annotations

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
