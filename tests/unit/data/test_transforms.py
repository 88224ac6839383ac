from __future__ import annotations

import pickle
from dataclasses import asdict

import numpy as np
import pytest
import torch
from PIL import Image

from vitune.data import AugmentConfig, Preprocessing, build_transform
from vitune.errors import ConfigError
from vitune.randomness import seeded

PLAIN = Preprocessing(input_size=(3, 8, 12), mean=(0, 0, 0), std=(1, 1, 1), crop_pct=0.5)


def picture(width: int = 40, height: int = 20) -> Image.Image:
    """Red grows from left to right, green from top to bottom."""
    across = np.broadcast_to(np.linspace(0, 255, width), (height, width))
    down = np.broadcast_to(np.linspace(0, 255, height)[:, None], (height, width))
    return Image.fromarray(np.stack([across, down, 0 * down], 2).astype(np.uint8))


def apply(transform, seed: int = 0) -> torch.Tensor:
    with seeded(seed):
        return transform(picture())


def test_evaluation_follows_the_preprocessing_alone():
    outputs = [
        apply(build_transform(PLAIN, train=False, augment=name), s)
        for s in (0, 1)
        for name in ("none", "strong")
    ]
    assert outputs[0].shape == (3, 8, 12)
    assert all(torch.equal(output, outputs[0]) for output in outputs)
    assert outputs[0][0].min() > 0.1  # the crop has cut the sides off


def test_exact_square_squashes_all_of_the_picture():
    squashed = apply(build_transform(PLAIN.exact_square(), train=False))
    assert squashed.shape == (3, 8, 12)
    expected = (
        torch.tensor(np.asarray(picture().resize((12, 8), Image.Resampling.BICUBIC))).permute(2, 0, 1) / 255
    )
    assert torch.equal(squashed, expected)


def test_none_trains_on_what_the_exact_square_evaluates():
    trained = build_transform(PLAIN, train=True, augment="none")
    assert torch.equal(apply(trained, 1), apply(build_transform(PLAIN.exact_square(), train=False), 2))


def test_normalisation():
    preprocessing = Preprocessing(input_size=(3, 8, 8), mean=(0.5, 0.25, 0), std=(0.5, 0.25, 2))
    for train in (True, False):
        out = build_transform(preprocessing, train=train, augment="none")(
            Image.new("RGB", (9, 9), (255, 255, 255))
        )
        assert out.dtype == torch.float32
        assert torch.allclose(out.mean((1, 2)), torch.tensor([1, 3, 0.5]))


def test_light_crops_and_flips_and_changes_no_colour():
    transform = build_transform(PLAIN, train=True, augment="light")
    outputs = [apply(transform, seed) for seed in range(20)]
    assert all(output.shape == (3, 8, 12) for output in outputs)
    flipped = [bool(output[0, 0, 0] > output[0, 0, -1]) for output in outputs]
    assert 3 < sum(flipped) < 17
    assert all(output[2].abs().max() == 0 for output in outputs)
    assert len({output.numpy().tobytes() for output in outputs}) == 20


def test_strong_also_erases_and_distorts():
    transform = build_transform(PLAIN, train=True, augment="strong")
    outputs = [apply(transform, seed) for seed in range(40)]
    changed = [bool(output[2].abs().max() > 0) for output in outputs]
    assert sum(changed) > 10
    outside = [
        bool(output.max() > 1 or output.min() < 0) for output in outputs
    ]  # the noise of erased rectangles
    assert 2 < sum(outside) < 25


@pytest.mark.parametrize("augment", ["none", "light", "strong", "crop", "erase", "rand"])
def test_transforms_pickle_and_take_a_single_pixel(augment):
    transform = pickle.loads(pickle.dumps(build_transform(PLAIN, train=True, augment=augment)))
    assert transform(Image.new("RGB", (1, 1))).shape == (3, 8, 12)
    assert build_transform(PLAIN, train=False)(Image.new("RGB", (1, 1))).shape == (3, 8, 12)


def test_settings_of_ones_own():
    squash_and_flip = build_transform(PLAIN, train=True, augment=AugmentConfig(random_crop=False, flip=1.0))
    square = apply(build_transform(PLAIN.exact_square(), train=False))
    assert torch.allclose(apply(squash_and_flip), square.flip(2), atol=2 / 255)
    whole = AugmentConfig(scale=(1.0, 1.0), ratio=(2.0, 2.0), flip=0.0)
    assert torch.equal(apply(build_transform(PLAIN, train=True, augment=whole)), square)


def test_a_crop_of_one_size_is_a_window_of_the_resized_image():
    # At a share of half, the image covers 16 x 24 pixels; its own shape makes that 16 x 32.
    resized = np.asarray(picture().resize((32, 16), Image.Resampling.BICUBIC))
    windows = (torch.tensor(resized).permute(2, 0, 1) / 255).unfold(1, 8, 1).unfold(2, 12, 1)
    crop = build_transform(PLAIN, train=True, augment=AugmentConfig(crop_pct=0.5, flip=0.0))
    places = set()
    for seed in range(5):
        found = apply(crop, seed)
        apart = (windows - found[:, None, None]).abs().amax((0, 3, 4))  # places down, places across
        assert apart.min() < 1e-6
        places.add(int(apart.argmin()))
    assert len(places) > 2


def test_presets_and_json_lists():
    assert AugmentConfig.preset("light") == AugmentConfig()
    assert AugmentConfig.preset("strong").auto_augment == "rand-m9-mstd0.5-inc1"
    assert AugmentConfig.preset("erase") == AugmentConfig(erase=0.25)
    assert not AugmentConfig.preset("rand").random_crop
    config = AugmentConfig(**(asdict(AugmentConfig.preset("strong")) | {"scale": [0.08, 1.0]}))
    assert config == AugmentConfig.preset("strong")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scale": (0, 1)}, r"augment: scale must be \(low, high\) with 0 < low <= high <= 1, not \(0, 1\)"),
        ({"scale": (0.5, 2)}, "augment: scale must be"),
        ({"scale": 0.5}, "augment: scale must be"),
        ({"ratio": (2, 1)}, r"augment: ratio must be \(low, high\) with 0 < low <= high, not \(2, 1\)"),
        ({"crop_pct": 0.0}, r"augment: crop_pct must be above 0 and at most 1, not 0\.0"),
        ({"flip": 1.5}, r"augment: flip must be a probability in 0\.\.1, not 1\.5"),
        ({"erase": float("nan")}, "augment: erase must be a probability"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ConfigError, match=message):
        AugmentConfig(**settings)


def test_unknown_names():
    with pytest.raises(ConfigError, match=r"there is no augmentation 'lihgt'. Did you mean 'light'"):
        build_transform(PLAIN, train=True, augment="lihgt")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match=r"timm knows no policy 'rnd' \(auto_augment\); write one such as"):
        build_transform(PLAIN, train=True, augment=AugmentConfig(auto_augment="rnd"))
