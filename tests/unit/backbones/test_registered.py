from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys

import pytest
import timm
import torch
from safetensors import safe_open
from timm.data.config import resolve_model_data_config
from timm.models.vision_transformer import VisionTransformer

from vitune.backbones import BUILT_IN, read_card

CARD = json.loads(read_card().path.read_text())


@pytest.fixture(scope="module")
def model() -> VisionTransformer:
    return timm.create_model(BUILT_IN, pretrained=True).eval()  # pyright: ignore[reportReturnType]


def test_importing_the_package_registers_the_name_with_timm():
    code = (
        "import timm, vitune; assert not timm.is_model('vitune_vit_nano_patch8_64'); import vitune.backbones; "
        "assert timm.is_model('vitune_vit_nano_patch8_64'); "
        "assert 'vitune_vit_nano_patch8_64' in timm.list_models(pretrained=True)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_it_is_a_plain_small_vision_transformer_with_a_class_token(model: VisionTransformer):
    assert type(model) is VisionTransformer
    assert model.num_prefix_tokens == 1
    assert sum(parameter.numel() for parameter in model.parameters()) == CARD["parameters"] <= 6_000_000


def test_the_architecture_is_that_of_the_card(model: VisionTransformer):
    shape = CARD["architecture"]
    assert model.embed_dim == shape["embed_dim"]
    assert len(model.blocks) == shape["depth"]
    assert model.patch_embed.patch_size == (shape["patch_size"], shape["patch_size"])
    assert model.patch_embed.img_size == (shape["img_size"], shape["img_size"])
    assert model.num_classes == CARD["num_classes"] == len(CARD["class_names"])


def test_the_weights_are_those_of_the_card(model: VisionTransformer):
    card = read_card()
    assert card.weights.stat().st_size == CARD["bytes"] <= 12 * 1024 * 1024
    assert hashlib.sha256(card.weights.read_bytes()).hexdigest() == card.sha256
    with safe_open(card.weights, "pt") as file:
        assert set(file.keys()) == model.state_dict().keys()
        for name, tensor in model.state_dict().items():
            stored = file.get_tensor(name)
            assert stored.dtype == torch.float16
            assert torch.equal(stored.float(), tensor)


def test_preprocessing_is_that_of_the_card(model: VisionTransformer):
    config = resolve_model_data_config(model)
    expected = {**CARD["input"], "input_size": CARD["input"]["size"]}
    for key in ("input_size", "mean", "std"):
        assert list(config[key]) == expected[key]
    assert config["interpolation"] == expected["interpolation"]
    assert config["crop_pct"] == expected["crop_pct"]


def test_a_classifier_of_another_size_starts_anew_and_the_rest_is_kept(model: VisionTransformer):
    other = timm.create_model(BUILT_IN, pretrained=True, num_classes=7)
    own = model.state_dict()
    for name, tensor in other.state_dict().items():
        if name.startswith("head."):
            assert tensor.shape[0] == 7
        else:
            assert torch.equal(tensor, own[name]), name


def test_random_weights_and_arguments_in_place_of_the_cards():
    torch.manual_seed(0)
    model = timm.create_model(BUILT_IN, depth=1, drop_path_rate=0.5, num_classes=3)
    assert len(model.blocks) == 1
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 3)


def test_another_image_size_interpolates_the_positions(model: VisionTransformer):
    side = 2 * CARD["architecture"]["img_size"]
    larger = timm.create_model(BUILT_IN, pretrained=True, img_size=side).eval()
    assert larger.pos_embed.shape[1] == 4 * (model.pos_embed.shape[1] - 1) + 1
    assert larger(torch.zeros(1, 3, side, side)).shape == (1, CARD["num_classes"])


def test_features_can_be_extracted_as_timm_does_it():
    side = CARD["architecture"]["img_size"] // CARD["architecture"]["patch_size"]
    model = timm.create_model(BUILT_IN, features_only=True, out_indices=[0, 1])
    features = model(torch.zeros(1, 3, 64, 64))
    assert [list(feature.shape) for feature in features] == 2 * [
        [1, CARD["architecture"]["embed_dim"], side, side]
    ]


def test_the_card_says_what_a_reader_needs():
    assert CARD["name"] == BUILT_IN
    assert CARD["data"].keys() == {"name", "train", "val"}
    last = CARD["stages"][-1]
    assert last["log"][-1]["val_accuracy"] == CARD["val_accuracy"]
    assert last["log"][-1]["epoch"] == last["epochs_done"]
    on_cpu = any(stage.get("device_type") == "cpu" for stage in CARD["stages"])
    assert CARD["interim"] == on_cpu
    page = read_card().path.with_name("README.md").read_text()
    assert f"{100 * CARD['val_accuracy']:.2f} %" in page
    assert CARD["sha256"] in page
    assert ("**Interim weights.**" in page) == on_cpu
    assert "ImageNet terms" in page
    for stage in CARD["stages"]:
        assert re.match(r"vitune pretrain data/[\w-]+ ", stage["command"])
        assert stage["command"] in page
