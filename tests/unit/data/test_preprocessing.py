from __future__ import annotations

import json

import pytest
import timm
from torch import nn

from vitune.data import Preprocessing
from vitune.errors import ConfigError


def test_timm_model_names_its_own():
    model = timm.create_model("vit_tiny_patch16_224", depth=1, embed_dim=12)
    assert Preprocessing.from_model(model) == Preprocessing(
        input_size=(3, 224, 224),
        interpolation="bicubic",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        crop_pct=0.9,
        crop_mode="center",
    )


def test_timm_model_of_another_size():
    model = timm.create_model("vit_tiny_patch16_224", depth=1, embed_dim=12, img_size=(32, 48), patch_size=8)
    assert Preprocessing.from_model(model).input_size == (3, 32, 48)


def test_timm_model_without_a_patch_grid():
    model = timm.create_model("resnet10t")
    assert Preprocessing.from_model(model).input_size == (3, 176, 176)


def test_overrides():
    model = timm.create_model("vit_tiny_patch16_224", depth=1, embed_dim=12)
    assert Preprocessing.from_model(model, crop_pct=1.0, input_size=(3, 64, 64)).input_size == (3, 64, 64)
    with pytest.raises(
        ConfigError, match=r"preprocessing: unknown setting 'crop_pc'. Did you mean 'crop_pct'"
    ):
        Preprocessing.from_model(model, crop_pc=1.0)


def test_round_trip_through_json():
    first = Preprocessing(input_size=(3, 8, 9), crop_mode="squash")
    assert Preprocessing.from_dict(json.loads(json.dumps(first.to_dict()))) == first


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"input_size": 224}, "input_size must hold three numbers, not 224"),
        ({"input_size": (1, 8, 8)}, r"input_size must be \(3, height, width\), not \(1, 8, 8\)"),
        ({"input_size": (3, 0, 8)}, "input_size must be"),
        ({"mean": (0.5, 0.5)}, "mean must hold three numbers"),
        ({"mean": "abc"}, "mean must hold three numbers"),
        ({"std": (0.5, 0.5, 0)}, "mean must be finite and std positive"),
        ({"mean": (0.5, 0.5, float("nan"))}, "mean must be finite"),
        ({"crop_pct": 0}, "crop_pct must be above 0 and at most 1, not 0"),
        ({"crop_pct": 1.5}, "crop_pct must be above 0 and at most 1"),
        ({"interpolation": "bicubik"}, "interpolation is 'bicubik'. Did you mean 'bicubic'"),
        ({"crop_mode": "sqash"}, "crop_mode is 'sqash'. Did you mean 'squash'"),
    ],
)
def test_out_of_range(settings, message):
    with pytest.raises(ConfigError, match=f"preprocessing: {message}"):
        Preprocessing(**settings)


def test_model_that_names_nothing():
    with pytest.raises(
        ConfigError, match=r"Linear names no preprocessing .*; give Preprocessing\(\.\.\.\) yourself"
    ):
        Preprocessing.from_model(nn.Linear(1, 1))
