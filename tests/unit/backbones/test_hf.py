from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from vitune.backbones import BackboneSource, create, describe_source, rebuild
from vitune.errors import ConfigError

from .rebuilding import rebuilt, same

transformers: Any = pytest.importorskip("transformers", reason="the extra hf is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small classifier of five classes, as transformers saves it."""
    path = tmp_path_factory.mktemp("hf") / "small"
    config = transformers.ViTConfig(
        image_size=16,
        patch_size=8,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_labels=5,
    )
    torch.manual_seed(0)
    transformers.ViTForImageClassification(config).save_pretrained(path)
    return path


@pytest.mark.parametrize("prefix", ["", "hf:"])
def test_a_folder_loads_with_a_new_classifier(folder: Path, prefix: str):
    model: Any = create(f"{prefix}{folder}", num_classes=3)
    origin = transformers.ViTForImageClassification.from_pretrained(folder)
    own, other = model.state_dict(), origin.state_dict()
    assert own.keys() == other.keys()
    for name, tensor in own.items():
        assert name.startswith("classifier.") or torch.equal(tensor, other[name])
    assert model(pixel_values=torch.zeros(1, 3, 16, 16)).logits.shape == (1, 3)
    source = describe_source(model)
    assert source is not None
    assert (source.library, source.name, source.weights) == ("transformers", str(folder), "pretrained")
    again = rebuilt(source)
    assert same_but_classifier(again, model)
    assert describe_source(again) == source


def same_but_classifier(a: Any, b: Any) -> bool:
    own, other = a.state_dict(), b.state_dict()
    return own.keys() == other.keys() and all(
        torch.equal(t, other[name]) for name, t in own.items() if not name.startswith("classifier.")
    )


def test_as_many_classes_keep_the_classifier(folder: Path):
    origin = transformers.ViTForImageClassification.from_pretrained(folder)
    assert same(create(str(folder), num_classes=5), origin)
    assert torch.equal(create(str(folder), num_classes=5).classifier.weight, origin.classifier.weight)  # pyright: ignore


def test_random_weights_and_settings(folder: Path):
    model: Any = create(str(folder), num_classes=3, pretrained=False, hidden_dropout_prob=0.25)
    assert model.config.hidden_dropout_prob == 0.25
    source = describe_source(model)
    assert source is not None
    assert source.weights == "random"
    assert rebuild(source, 3).config.hidden_dropout_prob == 0.25  # pyright: ignore
    assert not same_but_classifier(model, create(str(folder), num_classes=3))


def test_weights_from_a_file(folder: Path, tmp_path: Path):
    origin = transformers.ViTForImageClassification.from_pretrained(folder)
    save_file({name: t + 1 for name, t in origin.state_dict().items()}, tmp_path / "weights.safetensors")
    model = create(str(folder), num_classes=3, weights=tmp_path / "weights.safetensors")
    assert torch.equal(
        model.state_dict()["vit.layernorm.bias"], origin.state_dict()["vit.layernorm.bias"] + 1
    )
    assert same_but_classifier(rebuilt(describe_source(model)), model)


def test_a_plain_model_is_described_and_made_again_from_its_configuration(folder: Path):
    plain = transformers.ViTForImageClassification.from_pretrained(folder)
    source = describe_source(plain)
    assert source is not None
    assert (source.library, source.name, source.weights) == ("transformers", str(folder), None)
    assert same_but_classifier(rebuilt(source), plain)
    made = describe_source(transformers.ViTForImageClassification(plain.config.__class__(**SMALL)))
    assert made is not None
    assert made.name == ""
    assert rebuilt(made).config.hidden_size == 16


SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def test_settings_that_do_not_fit_are_refused(folder: Path):
    with pytest.raises(ConfigError, match=r"do not fit its configuration at 'vit\."):
        create(str(folder), num_classes=3, image_size=32)
    with pytest.raises(ConfigError, match="has no setting 'hiden_size'"):
        create(str(folder), num_classes=3, hiden_size=3)
    with pytest.raises(ConfigError, match="stands in its own configuration; leave img_size out"):
        create(str(folder), num_classes=3, img_size=32)


def test_a_model_that_classifies_no_images(tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ConfigError, match="transformers has no image classifier of type 'bert'"):
        create(str(tmp_path), num_classes=3, pretrained=False)
    with pytest.raises(ConfigError, match="transformers has no image classifier of type 'bert'"):
        create(str(tmp_path), num_classes=3)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("name", ["google/vit-base-patch16-224", "hf:google/vit-base-patch16-224"])
def test_a_hub_that_cannot_be_reached(name: str):
    with pytest.raises(
        ConfigError, match=r"'google/vit-base-patch16-224' cannot be loaded .* give a file with --weights"
    ):
        create(name, num_classes=3)


def test_without_transformers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"pip install 'vitune\[hf\]'"):
        create("google/vit-base-patch16-224", num_classes=3)


def test_an_unknown_type_of_model_in_a_description():
    with pytest.raises(ConfigError, match="has no model of type 'vitt'"):
        rebuild(BackboneSource("transformers", "x", {"model_type": "vitt"}, None), 3)
