from __future__ import annotations

import dataclasses

import pytest
import torch

from vitune.training.augment_batch import BatchAugmentation, normalise

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)
OFF = BatchAugmentation(crop_min_area=1.0, flip=False, jitter=0.0, erase=0.0, mean=MEAN, std=STD)


def noise(count: int = 8, side: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, side, side), generator=generator, dtype=torch.uint8)


def test_all_off_is_normalisation_alone():
    images = noise()
    expected = (images.double() / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    assert torch.allclose(OFF(images, 1).double(), expected, atol=1e-5)


def test_normalise_leaves_its_input():
    pixels = noise().float()
    before = pixels.clone()
    normalise(pixels, MEAN, STD)
    assert torch.equal(pixels, before)


def test_flip_mirrors_some_images_and_leaves_the_others():
    images, plain = noise(64), OFF(noise(64), 1)
    flipped = dataclasses.replace(OFF, flip=True)(images, 1)
    same = [torch.allclose(a, b, atol=1e-4) for a, b in zip(flipped, plain, strict=True)]
    mirrored = [torch.allclose(a, b.flip(-1), atol=1e-4) for a, b in zip(flipped, plain, strict=True)]
    assert all(a != b for a, b in zip(same, mirrored, strict=True))
    assert 16 < sum(mirrored) < 48


def test_a_crop_shows_a_part_of_the_image_and_nothing_beyond_it():
    # Each pixel holds its column, so a crop is a stretch of a ramp.
    ramp = (torch.arange(64) * 4).to(torch.uint8).expand(32, 3, 64, 64)
    augment = dataclasses.replace(OFF, crop_min_area=0.25, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    columns = augment(ramp, 3)[:, 0, 32] * 255 / 4
    widths = columns[:, -1] - columns[:, 0]
    assert columns.min() >= 0
    assert columns.max() <= 63
    # Area from 1/4 to 1 with aspect from 3/4 to 4/3, less the two half pixels at the ends.
    assert widths.min() >= 64 * (0.25 * 0.75) ** 0.5 - 1.01
    assert widths.max() <= 63
    assert widths.std() > 3
    assert (columns[:, 1:] >= columns[:, :-1]).all()


@pytest.mark.parametrize("value", [0, 128, 255])
def test_jitter_of_grey_is_grey_and_within_bounds(value: int):
    images = torch.full((32, 3, 8, 8), value, dtype=torch.uint8)
    augment = dataclasses.replace(OFF, jitter=0.4, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    result = augment(images, 5)
    assert torch.allclose(result[:, 0], result[:, 2], atol=1e-5)
    assert result.min() >= 0
    assert result.max() <= 1
    assert torch.allclose(result, result[:, :1, :1, :1].expand_as(result), atol=1e-6)
    if value == 128:  # black stays black, white is clipped
        assert result.min() >= 0.6 * 128 / 255 - 1e-4
        assert result.std() > 0.05


def test_jitter_is_brightness_of_contrast_of_saturation():
    images = noise(4)
    augment = dataclasses.replace(OFF, jitter=0.1, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    factors = torch.rand(12, generator=torch.Generator().manual_seed(9)) * 0.2 + 0.9
    expected = []
    for image, b, c, s in zip(images.float() / 255, *factors.view(3, 4), strict=True):
        grey = 0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2]
        coloured = grey + s * (image - grey)
        contrasted = grey.mean() + c * (coloured - grey.mean())
        expected.append((b * contrasted).clamp(0, 1))
    assert torch.allclose(augment(images, 9), torch.stack(expected), atol=1e-5)


def test_erasing_puts_one_rectangle_of_the_mean_into_a_share_of_the_images():
    images = torch.full((200, 3, 32, 32), 255, dtype=torch.uint8)
    result = dataclasses.replace(OFF, erase=0.5)(images, 2)
    gone = (result == 0).all(1)
    share = gone.flatten(1).any(1).float().mean()
    assert 0.4 < share < 0.6
    for mask in gone:
        rows, columns = mask.any(1), mask.any(0)
        assert torch.equal(mask, rows[:, None] & columns[None, :])
        assert mask.float().mean() < 0.3


def test_a_batch_is_a_function_of_the_seed():
    augment = BatchAugmentation(crop_min_area=0.3, flip=True, jitter=0.3, erase=0.5, mean=MEAN, std=STD)
    images = noise()
    torch.manual_seed(1)
    first = augment(images, 7)
    torch.manual_seed(2)
    assert torch.equal(first, augment(images, 7))
    assert not torch.equal(first, augment(images, 8))
    assert torch.equal(images, noise())
