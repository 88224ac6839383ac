from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

from vitune.backbones import BUILT_IN, BackboneSource, create, describe_source, rebuild
from vitune.errors import ConfigError, NothingMatchedError

from .rebuilding import rebuilt, same

SHAPE: dict[str, Any] = {"patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
IMAGE = torch.linspace(-1, 1, 3 * 64 * 64).view(1, 3, 64, 64)


def test_without_a_name_it_is_the_built_in_backbone():
    model: Any = create(None, num_classes=3)
    assert type(model) is VisionTransformer
    assert model.head.out_features == 3
    assert describe_source(model) == BackboneSource("timm", BUILT_IN, {}, "pretrained")
    assert same(rebuilt(describe_source(model)), model)


def test_random_weights_are_said_to_be_random():
    source = describe_source(create(None, num_classes=3, pretrained=False))
    assert source is not None
    assert source.weights == "random"
    assert not same(rebuilt(source), rebuilt(source))


def test_image_size_and_arguments_are_remembered():
    model: Any = create("vit_tiny_patch16_224", num_classes=3, pretrained=False, img_size=64, **SHAPE)
    assert model(IMAGE).shape == (1, 3)
    assert describe_source(model) == BackboneSource(
        "timm", "vit_tiny_patch16_224", {**SHAPE, "img_size": 64}, "random"
    )
    assert rebuilt(describe_source(model)).state_dict().keys() == model.state_dict().keys()


def test_weights_from_a_file_are_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    origin: Any = create("vit_tiny_patch16_224", num_classes=5, pretrained=False, img_size=64, **SHAPE)
    save_file(origin.state_dict(), tmp_path / "weights.safetensors")
    monkeypatch.chdir(tmp_path)
    model = create(
        "vit_tiny_patch16_224", num_classes=3, weights=Path("weights.safetensors"), img_size=64, **SHAPE
    )
    assert same(model, origin)
    monkeypatch.chdir("/")
    source = describe_source(model)
    assert source is not None
    assert source.weights == str(tmp_path / "weights.safetensors")
    assert same(rebuilt(source), origin)
    (tmp_path / "weights.safetensors").rename(tmp_path / "moved.safetensors")
    with pytest.raises(ConfigError, match="There is no weight file"):
        rebuilt(source)
    assert same(rebuild(source, 3, weights=tmp_path / "moved.safetensors"), origin)
    assert rebuild(source, 3, pretrained=False).state_dict().keys() == origin.state_dict().keys()


def test_a_plain_timm_model_is_described_too():
    plain = timm.create_model("vit_tiny_patch16_224.augreg_in21k", num_classes=4, img_size=64, **SHAPE)
    source = describe_source(plain)
    assert source == BackboneSource(
        "timm", "vit_tiny_patch16_224.augreg_in21k", {"img_size": 64, **SHAPE}, None
    )
    again = rebuild(source, 4, pretrained=False)
    assert [tuple(t.shape) for t in again.state_dict().values()] == [
        tuple(t.shape) for t in plain.state_dict().values()
    ]


def test_the_source_goes_with_copies_and_pickles():
    model = create(None, num_classes=3)
    assert describe_source(copy.deepcopy(model)) == describe_source(model)
    assert describe_source(pickle.loads(pickle.dumps(model))) == describe_source(model)


@pytest.mark.parametrize(
    "model",
    [
        torch.nn.Linear(2, 2),
        VisionTransformer(img_size=64, num_classes=2, **SHAPE),
        timm.create_model("vit_tiny_patch16_224", img_size=64, norm_layer=torch.nn.LayerNorm, **SHAPE),
    ],
    ids=["no backbone", "class called directly", "argument that is no JSON"],
)
def test_where_a_model_came_from_may_be_unknown(model: torch.nn.Module):
    assert describe_source(model) is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "vit_tinny_patch16_224",
            "There is no model 'vit_tinny_patch16_224'. Did you mean 'vit_tiny_patch16_224'?",
        ),
        ("vitune_vit_nano", "Did you mean 'vitune_vit_nano_patch8_64'?"),
        (
            "qqqqqqqq",
            "There is no model 'qqqqqqqq'. See `vitune list` for names, or name a Hugging Face hub id",
        ),
        (
            "vit_tiny_patch16_224.augreg_in21kk",
            "no weights 'augreg_in21kk'. Did you mean 'vit_tiny_patch16_224.augreg_in21k'?",
        ),
    ],
)
def test_an_unknown_name_gets_the_nearest(name: str, message: str):
    with pytest.raises(NothingMatchedError) as caught:
        create(name, num_classes=3, pretrained=False)
    assert message in str(caught.value)


def test_a_folder_that_is_no_model(tmp_path: Path):
    with pytest.raises(NothingMatchedError, match=r"is no model: it has no config\.json"):
        create(str(tmp_path), num_classes=3)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("name", ["test_vit", "hf-hub:timm/test_vit.r160_in1k", "timm/test_vit.r160_in1k"])
def test_weights_that_cannot_be_downloaded(name: str):
    with pytest.raises(
        ConfigError, match=r"cannot be loaded \(.*; without network, give a file with --weights FILE"
    ) as caught:
        create(name, num_classes=3)
    assert len(str(caught.value).splitlines()) == 1
    assert ".safetensors, .npz or .pth" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_classes": -1}, "num_classes is -1; it must be 0 (no classifier) or more"),
        ({"pach_size": 8}, "'vit_tiny_patch16_224' does not take these arguments"),
        ({"num_heads": 5}, "timm cannot make 'vit_tiny_patch16_224' with {'num_heads': 5}: AssertionError"),
    ],
)
def test_arguments_that_do_not_fit(changes: dict[str, Any], message: str):
    with pytest.raises(ConfigError) as caught:
        create("vit_tiny_patch16_224", **{"num_classes": 3, "pretrained": False, **changes})
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["resnet10t", "convnext_atto", "as_mlp_tiny", "mixer_s32_224"])
def test_images_of_another_size_where_the_architecture_takes_any(name):
    from vitune.anatomy import anatomy
    from vitune.data import Preprocessing

    model = create(name, num_classes=3, pretrained=False, img_size=64)
    assert anatomy(model).input_size == (3, 64, 64)
    assert Preprocessing.from_model(model).input_size == (3, 64, 64)
    source = describe_source(model)
    assert source is not None
    assert anatomy(rebuild(source, 3, pretrained=False)).input_size == (3, 64, 64)
