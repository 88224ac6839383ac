"""Every way in which an adapter cannot be loaded, each with its own sentence; the given model stays as it was."""

from __future__ import annotations

import json

import pytest
import timm
import torch
from tests.contract.families import SMALL, backbone, images
from tests.unit.adapters.saved import edit_config, edit_tensors, save_small

import vitune
from vitune.adapters import CONFIG, TENSORS
from vitune.errors import AdapterError


@pytest.fixture
def run(tmp_path):
    """A directory with an adapter."""
    save_small(tmp_path / "run", class_names=("a", "b", "c"), preprocessing={"crop_pct": 0.9})
    return tmp_path / "run"


def refused(folder, message: str, family: str = "plain", **arguments) -> None:
    model = arguments.pop("model", None) or backbone(family)
    before = [(name, type(module)) for name, module in model.named_modules()], list(model.state_dict())
    flags = [parameter.requires_grad for parameter in model.parameters()]
    with pytest.raises(AdapterError, match=message):
        vitune.load(folder, model=model, **arguments)
    assert (
        [(name, type(module)) for name, module in model.named_modules()],
        list(model.state_dict()),
    ) == before
    assert [parameter.requires_grad for parameter in model.parameters()] == flags


def test_what_was_saved_comes_back(run):
    model = backbone("plain").train()
    tuned = vitune.load(run, model=model)
    assert tuned.model is model
    assert not any(module.training for module in model.modules())
    assert tuned.class_names == ("a", "b", "c")
    assert tuned.preprocessing == {"crop_pct": 0.9}
    assert tuned.methods == (vitune.SSF(),)
    tuned.save(run.parent / "again")
    assert (run.parent / "again" / TENSORS).read_bytes() == (run / TENSORS).read_bytes()
    assert (run.parent / "again" / CONFIG).read_bytes() == (run / CONFIG).read_bytes()


def test_no_directory(tmp_path):
    refused(tmp_path / "none", "no adapter at '.*none': there is no such directory")


@pytest.mark.parametrize("name", [CONFIG, TENSORS])
def test_missing_file(run, name):
    (run / name).unlink()
    refused(run, f"no adapter in '.*run': the file '{name}' is missing")


@pytest.mark.parametrize("name", [CONFIG, TENSORS])
def test_link_that_leads_out(run, name):
    (run / name).rename(run.parent / "elsewhere")
    (run / name).symlink_to(run.parent / "elsewhere")
    refused(run, f"'.*run/{name}' is a link that leads out of the directory; copy the file itself there")


def test_link_to_the_directory_itself_is_fine(run):
    (run.parent / "link").symlink_to(run)
    assert vitune.load(run.parent / "link", model=backbone("plain")).class_names == ("a", "b", "c")


CHANGED = "is not the file that 'adapter_config.json' beside it was written with"


def test_truncated_tensors(run):
    (run / TENSORS).write_bytes((run / TENSORS).read_bytes()[:-10])
    refused(run, rf"'.*{TENSORS}' {CHANGED} \(truncated, changed, or from another run\)")


def test_changed_tensors(run):
    data = bytearray((run / TENSORS).read_bytes())
    data[-1] ^= 1
    (run / TENSORS).write_bytes(data)
    refused(run, CHANGED)


def test_tensors_of_another_run(run):
    save_small(run.parent / "other", "lora")
    (run / TENSORS).write_bytes((run.parent / "other" / TENSORS).read_bytes())
    refused(run, CHANGED)


def test_what_is_no_safetensors_file(run):
    import hashlib

    (run / TENSORS).write_bytes(b"something else")
    digest = hashlib.sha256(b"something else").hexdigest()
    edit_config(run, lambda config: config.update(tensors_sha256=digest))
    refused(run, f"'.*{TENSORS}' is not a safetensors file")


@pytest.mark.parametrize("text", ["{", "", "\x00"])
def test_invalid_json(run, text):
    (run / CONFIG).write_text(text)
    refused(run, f"'.*{CONFIG}' is not valid JSON")


def test_json_that_is_no_text(run):
    (run / CONFIG).write_bytes(b"\xff\xfe\x00")
    refused(run, f"'.*{CONFIG}' is not valid JSON")


@pytest.mark.parametrize("config", [[], {"peft_type": "LORA", "target_modules": ["qkv"], "r": 8}])
def test_configuration_of_another_library(run, config):
    (run / CONFIG).write_text(json.dumps(config))
    refused(run, rf"'.*{CONFIG}' is not a vitune adapter: it has no key 'methods' \(is it PEFT's\?\)")


def test_another_format(run):
    edit_config(run, lambda config: config.update(format=99))
    refused(run, "has format 99 and this vitune reads format 1; use the vitune version 0.1.0")


def test_another_format_without_a_version(run):
    edit_config(run, lambda config: (config.update(format=None), config.pop("versions")))
    refused(run, "has format None and this vitune reads format 1; use the vitune version that wrote it")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"name": "sff", "settings": {}}, r"no method 'sff'\. Did you mean 'ssf'\?"),
        (
            {"name": "ssf", "settings": {"std": 1}},
            r"ssf: no setting 'std'\. Known: downsample, init_std, roles",
        ),
        (
            {"name": "ssf", "settings": {"init_std": -1}},
            "ssf: init_std must be 0 or a positive number, not -1",
        ),
        ({"settings": {}}, "cannot read the method .*: 'name'"),
        ("ssf", "cannot read the method 'ssf'"),
        ({"name": "lora", "settings": {"rank": "four"}}, "cannot read the method .*rank"),
    ],
)
def test_methods_that_cannot_be_read(run, entry, message):
    edit_config(run, lambda config: config.update(methods=[entry]))
    refused(run, f"'.*{CONFIG}': {message}")


@pytest.mark.parametrize("key", ["backbone", "family", "frozen_sha256", "num_classes", "policies"])
def test_configuration_without_a_key(run, key):
    edit_config(run, lambda config: config.pop(key))
    refused(run, f"'.*{CONFIG}' has no key '{key}'")


def test_another_family(run):
    refused(run, "was made on a timm-vit backbone and the model is a hf-vit", family="hf")


def test_other_weights(run):
    model = backbone("plain")
    with torch.no_grad():
        model.pos_embed[0, 0, 0] += 1e-6
    refused(
        run,
        r"weights are not those that the adapter in '.*run' was trained on \(their hash differs\)",
        model=model,
    )


@pytest.mark.parametrize("text", ["bitfit", "full", "ssf,bitfit"])
def test_a_refused_backbone_keeps_its_own_numbers(run, text):
    save_small(run, text)
    model = backbone("plain")
    if text == "full":
        edit_config(run, lambda config: config.update(frozen_sha256="0" * 64))
    else:
        model.pos_embed.data.add_(1.0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    refused(run, "their hash differs", model=model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_state_of_more_policies_than_there_are(run):
    edit_config(run, lambda config: config.update(policies=[{}]))
    refused(run, "holds the state of 1 policies and its methods have 0; copy both of its files again")


def test_another_size(run):
    model = timm.create_model("vit_tiny_patch16_224", **{**SMALL, "depth": 4, "embed_dim": 48})
    refused(run, r"does not fit this backbone: the tensor '.*' has shape \(\d+,.*\), expected", model=model)


def test_another_depth(run):
    model = timm.create_model("vit_tiny_patch16_224", **{**SMALL, "depth": 5})
    refused(run, "does not fit this backbone: the tensor 'blocks.4..*' is missing", model=model)


def test_another_number_of_classes(run):
    model = timm.create_model("vit_tiny_patch16_224", **{**SMALL, "depth": 4, "num_classes": 5})
    refused(run, r"the tensor 'head.(weight|bias)' has shape \(3.*\), expected \(5.*\)", model=model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("norm.vitune.ssf.scale"), "the tensor 'norm.vitune.ssf.scale' is missing"),
        (
            lambda t: t.update({"norm.extra": torch.ones(1)}),
            "the tensor 'norm.extra' does not belong to this model",
        ),
        (
            lambda t: t.update({"norm.vitune.ssf.scale": torch.ones(5)}),
            r"the tensor 'norm.vitune.ssf.scale' has shape \(5,\), expected \(32,\)",
        ),
        (
            lambda t: t.update({"blocks.0.mlp.in.weight": torch.ones(128, 32)}),
            "the tensor 'blocks.0.mlp.in.weight' does not belong to this model",
        ),
    ],
)
def test_tensors_that_do_not_fit(run, change, message):
    edit_tensors(run, change)
    refused(run, f"the adapter in '.*run' does not fit this backbone: {message}")


def test_settings_that_do_not_fit_the_tensors(run):
    save_small(run, "lora(rank=2)")
    edit_config(run, lambda config: config["methods"][0]["settings"].update(rank=3))
    refused(
        run,
        r"the tensor '.*' has shape \(2, 32\), expected \(3, 32\)|has shape \(32, 2\), expected \(32, 3\)",
    )


def test_a_backbone_of_unknown_origin_must_be_given(tmp_path):
    model = timm.models.vision_transformer.VisionTransformer(patch_size=16, **SMALL)
    tuned = vitune.apply(model, vitune.SSF())
    tuned.save(tmp_path)
    tuned.detach()
    with pytest.raises(
        AdapterError, match=r"does not know how its backbone was made; .* vitune.load\(path, model="
    ):
        vitune.load(tmp_path)
    assert vitune.load(tmp_path, model=model).model is model


def test_a_bare_transformers_encoder_must_be_given(tmp_path):
    save_small(tmp_path, "ssf", family="hf_features")
    with pytest.raises(AdapterError, match="does not know how its backbone was made"):
        vitune.load(tmp_path)
    assert vitune.load(tmp_path, model=backbone("hf_features")).class_names is None


def test_a_tuned_model_is_not_a_backbone(run):
    model = vitune.apply(backbone("plain"), vitune.LoRA()).model
    with pytest.raises(vitune.VituneError, match="the model is tuned already"):
        vitune.load(run, model=model)


def test_a_given_model_is_used_and_no_weights_are_looked_for(run):
    edit_config(run, lambda config: config["backbone"].update(name="no_such_model"))
    loaded = vitune.load(run, model=backbone("plain"))
    with torch.no_grad():
        assert loaded(images("plain")).isfinite().all()
