"""Merging: the plain model computes what the tuned one did, or refuses with the reason."""

from __future__ import annotations

import json

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tests.contract.cases import ALL, BY_TEXT, CASES, randomise, tune
from tests.contract.families import FAMILIES, SMALL, backbone, images
from vitune.adapters import merge, unfoldable, write_merged
from vitune.anatomy import logits
from vitune.backbones import BackboneSource, rebuild
from vitune.errors import AdapterError, SurgeryError
from vitune.methods import parse

MERGING = [(text, family) for text, family in ALL if BY_TEXT[text].merges(family)]
STUCK = [(text, family) for text, family in ALL if not BY_TEXT[text].merges(family)]
WRITTEN = [
    (text, family)
    for text, family in MERGING
    if "rebuilt" in FAMILIES[family].features
    and text in ("full", "bitfit", "lora", "ssf", "lora(rank=2),ssf")
    and not (family == "eva02" and "ssf" in text)  # below
]


def tuned_and_scores(text: str, family: str):
    tuned = randomise(tune(text, family))
    tuned.model.eval()
    with torch.no_grad():
        return tuned, tuned(images(family))


def test_methods_say_whether_they_merge():
    for case in CASES:
        if len(case.names) == 1:
            assert parse(case.text)[0].merges == case.merges("plain")


@pytest.mark.parametrize(("text", "family"), MERGING)
def test_merged_computes_the_same(text, family):
    tuned, expected = tuned_and_scores(text, family)
    model = merge(tuned)
    assert model is tuned.model
    plain = dict(backbone(family).named_modules())
    assert {name: type(module) for name, module in model.named_modules()} == {
        n: type(m) for n, m in plain.items()
    }
    with torch.no_grad():
        torch.testing.assert_close(logits(model, images(family)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("text", "family"), STUCK)
def test_what_cannot_be_merged_is_refused_and_left_alone(text, family):
    tuned, expected = tuned_and_scores(text, family)
    before = {name: tensor.clone() for name, tensor in tuned.model.state_dict().items()}
    stuck = unfoldable(tuned)
    with pytest.raises(
        SurgeryError, match=rf"{len(stuck)} edits cannot be merged \(first: {stuck[0].split(' ')[0]} "
    ):
        merge(tuned)
    after = tuned.model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    with torch.no_grad():
        assert torch.equal(tuned(images(family)), expected)


@pytest.mark.parametrize(("text", "family"), STUCK)
def test_merged_in_part_computes_the_same_and_can_be_detached(text, family):
    tuned, expected = tuned_and_scores(text, family)
    stuck = unfoldable(tuned)
    merge(tuned, partial=True)
    with torch.no_grad():
        torch.testing.assert_close(tuned(images(family)), expected, rtol=1e-5, atol=1e-5)
    left = [f"{edit.role} ({edit.edit})" for edit in tuned.costs().edits]
    stuck = [
        name for name in stuck if not name.startswith("head ")
    ]  # a head of its own is no edit of the backbone
    assert sorted(left) == sorted(stuck)
    tuned.detach()
    plain = backbone(family).state_dict()
    new = [name for name in tuned.model.state_dict() if name not in plain]
    assert all(name.endswith(".bias") for name in new), (
        new
    )  # shifts that were folded into layers without bias


@pytest.mark.parametrize("family", ["fc_norm", "inner_norms"])
def test_ssf_in_front_of_average_pooling_leaves_the_top_pair(family):
    tuned = tune("ssf", family)
    assert unfoldable(tuned) == ["norm (ssf)"]


@pytest.mark.parametrize(("text", "family"), WRITTEN)
def test_written_checkpoint_loads_without_vitune(text, family, tmp_path):
    tuned, expected = tuned_and_scores(text, family)
    tuned.class_names = ("a", "b", "c")
    path = tmp_path / "merged.safetensors"
    source = write_merged(tuned, path)
    with safe_open(path, framework="pt") as file:
        description = json.loads(file.metadata()["vitune"])
    assert BackboneSource.from_dict(description) == source
    assert description["class_names"] == ["a", "b", "c"]
    assert [child.name for child in tmp_path.iterdir()] == [path.name]
    if FAMILIES[family].anatomy.startswith("hf-"):
        plain = rebuild(source, description["num_classes"], pretrained=False)
    else:
        plain = timm.create_model(source.name, num_classes=description["num_classes"], **source.kwargs)
    plain.load_state_dict(load_file(path), strict=True)
    with torch.no_grad():
        torch.testing.assert_close(logits(plain.eval(), images(family)), expected, rtol=1e-5, atol=1e-5)


def test_a_shift_of_keys_that_have_no_bias_and_are_rotated_is_not_written(tmp_path):
    tuned, expected = tuned_and_scores("ssf", "eva02")
    with pytest.raises(SurgeryError, match=r"has no bias at 'blocks\.0\.attn\.k_proj' to take up the shift"):
        write_merged(tuned, tmp_path / "out.safetensors")
    assert not list(tmp_path.iterdir())
    with torch.no_grad():  # in memory it is merged all the same
        torch.testing.assert_close(logits(tuned.model, images("eva02")), expected, rtol=1e-5, atol=1e-5)


def test_checkpoint_into_a_missing_directory_is_refused_before_merging(tmp_path):
    tuned, expected = tuned_and_scores("ssf", "plain")
    with pytest.raises(
        AdapterError, match=r"cannot write '.*out\.safetensors': the directory '.*none' does not exist"
    ):
        write_merged(tuned, tmp_path / "none" / "out.safetensors")
    with torch.no_grad():
        assert torch.equal(tuned(images("plain")), expected)


def test_checkpoint_of_a_model_of_unknown_origin_is_refused(tmp_path):
    import vitune

    model = timm.models.vision_transformer.VisionTransformer(patch_size=16, **SMALL)
    tuned = vitune.apply(model, vitune.SSF())
    with pytest.raises(AdapterError, match="it is unknown how the backbone was made"):
        write_merged(tuned, tmp_path / "out.safetensors")
    assert not list(tmp_path.iterdir())


def test_lora_on_rows_leaves_the_other_rows_alone():
    tuned = randomise(tune("lora", "plain"))
    before = tuned.model.get_submodule("blocks.0.attn.qkv").weight.detach().clone()
    merge(tuned)
    after = tuned.model.get_submodule("blocks.0.attn.qkv").weight.detach()
    width = tuned.anatomy.width
    assert torch.equal(after[width : 2 * width], before[width : 2 * width])
    assert not torch.equal(after[:width], before[:width])
    assert not torch.equal(after[2 * width :], before[2 * width :])
