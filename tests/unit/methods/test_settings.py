"""Every setting out of range, in words."""

from __future__ import annotations

import pytest
from tests.contract.families import backbone

import vitune
from vitune.errors import ConfigError, NothingMatchedError, UnsupportedBackboneError
from vitune.methods import Method

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        (vitune.LoRA, {"rank": 0}, "lora: rank must be at least 1, not 0."),
        (vitune.LoRA, {"scale": NAN}, "lora: scale must be a finite number, not nan."),
        (vitune.LoRA, {"alpha": INF}, "lora: alpha must be a finite number, not inf."),
        (vitune.LoRA, {"dropout": 1.0}, "lora: dropout must be in [0, 1), not 1.0."),
        (vitune.LoRA, {"dropout": -0.1}, "lora: dropout must be in [0, 1), not -0.1."),
        (vitune.LoRA, {"dropout_at": "x"}, "lora: dropout_at must be 'latent' or 'input', not 'x'."),
        (vitune.LoRA, {"roles": ()}, "lora: roles must be at least one role, not ()."),
        (vitune.SSF, {"init_std": -1.0}, "ssf: init_std must be 0 or a positive number, not -1.0."),
        (vitune.SSF, {"init_std": INF}, "ssf: init_std must be 0 or a positive number, not inf."),
        (vitune.SSF, {"init_std": NAN}, "ssf: init_std must be 0 or a positive number, not nan."),
        (vitune.AdaptFormer, {"bottleneck": 0}, "adaptformer: bottleneck must be at least 1, not 0."),
        (
            vitune.AdaptFormer,
            {"placement": "x"},
            "adaptformer: placement must be 'parallel' or 'sequential', not 'x'.",
        ),
        (
            vitune.AdaptFormer,
            {"scale": "x"},
            "adaptformer: scale must be a finite number or 'learnable', not 'x'.",
        ),
        (
            vitune.AdaptFormer,
            {"scale": NAN},
            "adaptformer: scale must be a finite number or 'learnable', not nan.",
        ),
        (
            vitune.AdaptFormer,
            {"layernorm": "x"},
            "adaptformer: layernorm must be 'none', 'in' or 'out', not 'x'.",
        ),
        (vitune.AdaptFormer, {"dropout": 1.0}, "adaptformer: dropout must be in [0, 1), not 1.0."),
    ],
)
def test_out_of_range(method: type[Method], settings, message):
    with pytest.raises(ConfigError) as caught:
        method(**settings)
    assert str(caught.value) == message


def test_settings_from_a_file_are_checked():
    with pytest.raises(ConfigError, match=r"lora: no setting 'r'\. Known: alpha, dropout"):
        vitune.LoRA.from_settings({"r": 4})
    with pytest.raises(ConfigError, match="lora: rank must be at least 1, not -4"):
        vitune.LoRA.from_settings({"rank": -4})
    assert vitune.LoRA.from_settings({"roles": ["attn.out"]}) == vitune.LoRA(roles=("attn.out",))


@pytest.mark.parametrize(
    ("method", "family", "error", "message"),
    [
        (
            vitune.LoRA(roles=("norm1",)),
            "plain",
            UnsupportedBackboneError,
            "lora: 'blocks.0.norm1' is a norm; lora adapts linear layers and convolutions",
        ),
        (
            vitune.BiLoRA(roles=("patch_embed",)),
            "plain",
            UnsupportedBackboneError,
            "bi_lora: 'patch_embed' is a conv; bi_lora adapts linear layers only",
        ),
        (
            vitune.LoRA(roles=("attn.q", "attn.qkv")),
            "plain",
            UnsupportedBackboneError,
            "lora: the roles name 'blocks.0.attn.qkv' and rows of it at once; choose one",
        ),
        (
            vitune.LoRA(roles=("attn.q", "attn.v"), share_down=True),
            "hf",
            UnsupportedBackboneError,
            "lora: share_down needs several roles on one fused layer, and 'blocks.0.attn.q' is alone there",
        ),
        (
            vitune.LoRA(roles=("qvk",)),
            "plain",
            NothingMatchedError,
            "no role 'qvk' in this timm-vit backbone",
        ),
        (
            vitune.LoRA(roles=("head",)),
            "plain",
            NothingMatchedError,
            "'head' cannot be adapted: the head always trains",
        ),
        (
            vitune.SSF(roles=("attn.q",)),
            "plain",
            UnsupportedBackboneError,
            "ssf: 'blocks.0.attn.q' is a part of the layer 'blocks.0.attn.qkv'; name the whole layer",
        ),
        (
            vitune.LinearProbe(),
            "hf_features",
            UnsupportedBackboneError,
            "linear: the model has no head to train; create it with num_classes greater than 0",
        ),
    ],
)
def test_backbones_that_do_not_fit(method, family, error, message):
    model = backbone(family)
    before = [type(module) for module in model.modules()]
    with pytest.raises(error, match=message):
        vitune.apply(model, method)
    assert [type(module) for module in model.modules()] == before


def test_a_backbone_without_any_bias_is_refused_by_bitfit():
    model = backbone("rms_swiglu")
    model.patch_embed.proj.bias = None
    for name, parameter in list(model.named_parameters()):
        if name.endswith(".bias") and not name.startswith("head"):
            model.get_submodule(name.rpartition(".")[0]).bias = None
            assert parameter is not None
    with pytest.raises(UnsupportedBackboneError, match="bitfit: no layer of this backbone has a bias"):
        vitune.apply(model, vitune.BitFit())


def test_bitfit_by_names_trains_position_tables_too():
    rules = (vitune.BitFit(), vitune.BitFit(rule="names"))
    by_layer, by_name = (set(vitune.apply(backbone("swin"), rule).trainable()) for rule in rules)
    assert by_layer < by_name
    assert {name.rpartition(".")[2] for name in by_name - by_layer} == {"relative_position_bias_table"}
    by_layer, by_name = (set(vitune.apply(backbone("plain"), rule).trainable()) for rule in rules)
    assert by_layer == by_name


def test_only_identity_starts_call_themselves_so():
    assert not vitune.SSF().starts_at_identity
    assert vitune.SSF(init_std=0).starts_at_identity
    assert vitune.LoRA().starts_at_identity


def test_a_class_that_does_not_say_what_it_edits():
    with pytest.raises(TypeError, match="Method does not say what it edits"):
        Method().edits(None)  # type: ignore[arg-type]
