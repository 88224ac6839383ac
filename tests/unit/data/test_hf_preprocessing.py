from __future__ import annotations

import json

import pytest

from vitune.data import Preprocessing
from vitune.errors import ConfigError

transformers = pytest.importorskip("transformers", reason="transformers is an extra")

TINY = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}


def vit(size=32):
    return transformers.ViTModel(transformers.ViTConfig(image_size=size, patch_size=8, **TINY))


def test_vit_without_a_file_uses_its_family():
    assert Preprocessing.from_model(vit()) == Preprocessing(
        input_size=(3, 32, 32),
        interpolation="bilinear",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        crop_pct=1.0,
        crop_mode="squash",
    )


def test_dinov2_without_a_file_crops():
    config = transformers.Dinov2Config(image_size=28, patch_size=14, **TINY)
    found = Preprocessing.from_model(transformers.Dinov2Model(config))
    assert found == Preprocessing(input_size=(3, 28, 28), crop_pct=0.875)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (
            {
                "image_mean": [0.1, 0.2, 0.3],
                "image_std": [1, 2, 3],
                "resample": 3,
                "size": {"height": 32, "width": 32},
            },
            {
                "mean": (0.1, 0.2, 0.3),
                "std": (1, 2, 3),
                "interpolation": "bicubic",
                "crop_pct": 1.0,
                "crop_mode": "squash",
            },
        ),
        (
            {"do_center_crop": True, "size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}},
            {
                "mean": (0.5,) * 3,
                "std": (0.5,) * 3,
                "interpolation": "bilinear",
                "crop_pct": 0.8,
                "crop_mode": "center",
            },
        ),
        (
            {"do_center_crop": True, "size": {"height": 64, "width": 64}},
            {
                "mean": (0.5,) * 3,
                "std": (0.5,) * 3,
                "interpolation": "bilinear",
                "crop_pct": 0.5,
                "crop_mode": "squash",
            },
        ),
    ],
)
def test_file_beside_the_weights_decides(tmp_path, written, expected):
    vit().save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(written))
    model = transformers.ViTModel.from_pretrained(tmp_path)
    assert Preprocessing.from_model(model) == Preprocessing(input_size=(3, 32, 32), **expected)


def test_name_that_is_neither_a_folder_nor_a_repository():
    model = vit(size=[32, 48])
    model.config._name_or_path = "/gone/from here"
    assert Preprocessing.from_model(model).input_size == (3, 32, 48)


def test_unknown_family():
    config = transformers.BeitConfig(image_size=32, patch_size=16, **TINY)
    with pytest.raises(
        ConfigError, match=r"BeitModel comes without preprocessor_config\.json and .* 'beit' is not known"
    ):
        Preprocessing.from_model(transformers.BeitModel(config))
