from __future__ import annotations

import pickle
import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from vitune.data import EpochSampler, Pipeline, Preprocessing, build_transform, collate, open_source
from vitune.errors import ConfigError, DataError
from vitune.randomness import seeded

SMALL = Preprocessing(input_size=(3, 16, 16))


@pytest.fixture
def train(tmp_path, class_folders):
    return open_source(class_folders(tmp_path), val_fraction=0).split("train")


@pytest.fixture
def strong():
    return build_transform(SMALL, train=True, augment="strong")


def loaded(pipeline, *, workers=0, epochs=2, **kwargs):
    sampler = EpochSampler(len(pipeline), 5, 4)
    loader = DataLoader(pipeline, batch_sampler=sampler, collate_fn=collate, num_workers=workers, **kwargs)
    batches = []
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        batches += list(loader)
    return batches


def same(first, second):
    return len(first) == len(second) and all(
        torch.equal(a, b)
        for one, two in zip(first, second, strict=True)
        for a, b in zip(one, two, strict=True)
    )


def test_item_is_a_function_of_seed_epoch_and_index(train, strong):
    pipeline = Pipeline(train, strong, 5)
    first = pipeline[2, 3]
    assert first[0].shape == (3, 16, 16)
    assert first[0].dtype == torch.float32
    assert first[1:] == (train.labels[3], 3)
    torch.rand(3), random.random(), np.random.rand(), pipeline[0, 1]
    assert torch.equal(pipeline[2, 3][0], first[0])
    assert torch.equal(Pipeline(train, strong, 5)[2, 3][0], first[0])
    for other in (pipeline[1, 3], Pipeline(train, strong, 6)[2, 3]):
        assert not torch.equal(other[0], first[0])


def test_each_generator_that_a_transform_may_use_is_seeded(train):
    def draw(image):
        return torch.tensor([random.random(), np.random.rand(), torch.rand(()).item()], dtype=torch.float64)

    pipeline = Pipeline(train, draw, 0)
    assert torch.equal(pipeline[1, 2][0], pipeline[1, 2][0])
    assert bool((pipeline[1, 2][0] != pipeline[1, 3][0]).all())


def test_reading_leaves_the_global_generators_alone(train, strong):
    pipeline = Pipeline(train, strong, 5)
    with seeded(0):
        expected = (random.random(), np.random.rand(), torch.rand(()))
    with seeded(0):
        pipeline[0, 0], pipeline.__getitems__([(0, 1), (0, 2)])
        assert (random.random(), np.random.rand(), torch.rand(())) == expected


def test_set_epoch_is_for_plain_indices(train, strong):
    pipeline = Pipeline(train, strong, 5)
    pipeline.set_epoch(7)
    assert torch.equal(pipeline[1][0], pipeline[7, 1][0])
    assert not torch.equal(pipeline[1][0], pipeline[0, 1][0])


def test_batches_are_the_same_whatever_reads_them(train, strong):
    alone = loaded(Pipeline(train, strong, 5, cache=False))
    images, labels, indices = alone[0]
    assert (images.shape, labels.dtype, indices.dtype) == ((4, 3, 16, 16), torch.int64, torch.int64)
    assert labels.tolist() == [train.labels[index] for index in indices]
    assert same(loaded(Pipeline(train, strong, 5, cache=True)), alone)
    assert same(loaded(Pipeline(train, strong, 5), workers=2, persistent_workers=True), alone)
    assert not same(alone[:3], alone[3:])


def test_a_pickled_copy_reads_the_same(train, strong):
    pipeline = Pipeline(train, strong, 5, cache=False)
    copy = pickle.loads(pickle.dumps(pipeline))
    assert same(loaded(copy, epochs=1), loaded(pipeline, epochs=1))


def test_accelerate_keeps_the_batches(train, strong):
    from accelerate import Accelerator

    pipeline = Pipeline(train, strong, 5)
    loader = DataLoader(pipeline, batch_sampler=EpochSampler(10, 5, 4), collate_fn=collate)
    assert same(list(Accelerator(cpu=True).prepare(loader)), loaded(pipeline, epochs=1))


def test_cache_modes(train, strong):
    assert Pipeline(train, strong, 0).cached_bytes == 10 * 12 * 10 * 3
    assert Pipeline(train, strong, 0, cache=False).cached_bytes == 0
    with pytest.raises(ConfigError, match="cache is 'yes'; use 'auto', True or False"):
        Pipeline(train, strong, 0, cache="yes")  # pyright: ignore[reportArgumentType]


def test_no_such_sample(train, strong):
    for key in (10, (0, 10), -1):
        with pytest.raises(IndexError, match="is not among the 10 samples"):
            Pipeline(train, strong, 0)[key]


@pytest.mark.parametrize("workers", [0, 1])
def test_broken_image_is_named_through_workers(train, strong, tmp_path, workers):
    (tmp_path / "bee" / "1.png").write_text("text")
    with pytest.raises(DataError, match=r"bee/1\.png' cannot be read: it is not an image"):
        loaded(Pipeline(train, strong, 0, cache=False), workers=workers)
