"""Configs of PEFT as methods: every type of the installed release, on a timm and a transformers ViT."""

from __future__ import annotations

import copy
import json
import pickle
import sys
from typing import Any

import pytest
import torch
from tests.contract.families import FAMILIES, backbone, images
from torch import nn

import vitune
from vitune.adapters import unfoldable
from vitune.anatomy import anatomy, logits
from vitune.errors import (
    CompositionError,
    ConfigError,
    NothingMatchedError,
    SurgeryError,
    UnsupportedBackboneError,
)
from vitune.measure import saved_activation_bytes, weightless_copy
from vitune.methods import get_method, method_text, parse
from vitune.methods.hf_peft import NOT_MERGING, Peft
from vitune.methods.hf_peft.refused import reason_against
from vitune.surgery import parts_of

peft: Any = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore")  # of peft, about its own configs and kernels

# Settings that a layer of 32 channels needs.
SMALL = {"C3A": ",block_size=8", "MISS": ",r=4", "SHIRA": ",r=4", "ROAD": ",group_size=8"}
SMALL |= {"VBLORA": ",vector_length=8", "LN_TUNING": ",target_modules=norm1+norm2"}
SMALL |= {"WAVEFT": ",n_frequency=64,wavelet_family=db2"}
TYPES = sorted(Peft.types())
TEXTS = [f"peft(type={kind}{SMALL.get(kind, '')})" for kind in TYPES]
TEXTS += [
    "peft(r=2,use_dora=true,target_modules=attn.qkv+mlp.in)",
    "peft(r=2,use_rslora=true,bias=lora_only,target_modules=patch_embed+attn.out)",
    "peft(r=4,rank_pattern=mlp.out:2,target_modules=all-linear,exclude_modules=mlp.in,layers_to_transform=0+1)",
    "peft(r=2,modules_to_save=norm+head)",
    "peft(r=4,init_lora_weights=pissa,target_modules=attn.qkv+mlp.out)",
    "peft(r=4,init_lora_weights=pissa_niter_4,use_rslora=true)",
    "peft(r=4,init_lora_weights=olora,use_dora=true)",
    "peft(r=4,kasa_config=beta:0.001+gamma:0.01)",
    "peft(r=4,monteclora_config=num_samples:3+use_entropy:true,target_modules=attn.qkv+mlp.in)",
    "peft(r=2,monteclora_config=sample_scaler:0.01,use_rslora=true,lora_dropout=0.1)",
    "peft(type=WAVEFT,n_frequency=64,use_idwt=false)",
    "peft(type=FROD,target_modules=attn.qkv+mlp.in,frod_dropout=0.1)",
]
ON_HF = ["peft", "peft(type=IA3)", "peft(type=OFT,target_modules=query+value)", "peft(use_dora=true,r=2)"]
CASES = [(text, "plain") for text in TEXTS] + [(text, "hf") for text in ON_HF]
CASES += [("peft(r=2)", "swin"), ("peft(r=2,target_modules=all-linear)", "beit")]
CASES += [("peft(r=2,init_lora_weights=olora)", "beit"), ("peft(type=ADALORA,init_r=3,target_r=2)", "hf")]


def scores(model: Any, family: str) -> torch.Tensor:
    with torch.no_grad():
        return logits(model.eval(), images(family))


def train(tuned: vitune.Tuned, family: str) -> None:
    """Two steps, small enough for every type."""
    optimizer = torch.optim.SGD(tuned.parameters(), 1e-2)
    tuned.model.train()
    for _ in range(2):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(tuned(images(family)), torch.tensor([0, 1])).backward()
        optimizer.step()


def kept_bytes(model: nn.Module) -> int:
    """What a forward keeps for the backward, counted without memory."""
    with weightless_copy(model) as twin:
        return saved_activation_bytes(twin, lambda made: made(torch.zeros(2, 3, 32, 32)).sum()).bytes


@pytest.mark.parametrize(("text", "family"), CASES)
def test_a_config_trains_saves_loads_merges_and_leaves(text, family, tmp_path):
    model = backbone(family)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    classes = {name: type(module) for name, module in model.named_modules()}
    plain = scores(model, family)
    tuned = vitune.apply(model, parse(text), seed=3)
    assert torch.equal(scores(model, family), plain) == all(m.starts_at_identity for m in tuned.methods)
    assert list(before) == [name for name in model.state_dict() if ".vitune." not in name]

    started = {name: tensor.clone() for name, tensor in tuned.state().items()}
    train(tuned, family)
    assert any(not torch.equal(started[n], t) for n, t in tuned.state().items() if ".vitune." in n)
    after, trained = model.state_dict(), tuned.trainable()
    assert all(torch.equal(after[n], t) for n, t in before.items() if n not in trained)

    expected = scores(model, family)
    tuned.save(tmp_path)
    loaded = vitune.load(tmp_path, model=backbone(family))
    assert torch.equal(scores(loaded.model, family), expected)
    assert torch.equal(scores(copy.deepcopy(model), family), expected)

    method = next(iter(tuned.methods))
    assert bool(unfoldable(loaded)) != method.merges
    if method.merges:
        merged = loaded.merge()
        assert list(merged.state_dict()) == list(before)
        assert torch.allclose(scores(merged, family), expected, atol=1e-4)
    else:
        with pytest.raises(SurgeryError, match="edits cannot be merged"):
            loaded.merge()

    tuned.detach()
    assert {name: type(module) for name, module in model.named_modules()} == classes
    assert list(model.state_dict()) == list(before)


@pytest.mark.parametrize("family", FAMILIES)
def test_peft_lora_works_on_every_family(family, tmp_path):
    inside = [o for o in anatomy(backbone(family)).operators if o.role.startswith("blocks.")]
    linear = any(operator.kind == "linear" for operator in inside)
    convolutions = {name for o in inside if (name := o.path.rpartition(".")[2]).startswith("conv")}
    names = "all-linear" if linear else "+".join(sorted(convolutions))
    tuned = vitune.apply(backbone(family), parse(f"peft(r=2,target_modules={names})"))
    train(tuned, family)
    expected = scores(tuned.model, family)
    tuned.save(tmp_path)
    loaded = vitune.load(tmp_path, model=backbone(family))
    assert torch.equal(scores(loaded.model, family), expected)
    assert torch.allclose(scores(loaded.merge(), family), expected, atol=1e-4)


# Their attention never calls qkv, whose bias it keeps apart; many types compute with weight and bias themselves.
@pytest.mark.parametrize("family", ["beit", "swinv2"])
@pytest.mark.parametrize("kind", ["ADAMSS", "FROD", "GLORA", "LORA", "SHIRA", "SUPERTUNING"])
def test_a_bias_that_is_kept_apart_is_part_of_the_layer(kind, family):
    text = f"peft(type={kind}{SMALL.get(kind, '')},target_modules=blocks.1.attn.qkv)"
    model = backbone(family)
    plain = scores(model, family)
    tuned = vitune.apply(model, parse(text))
    assert torch.allclose(scores(model, family), plain, atol=1e-5)
    train(tuned, family)
    expected = scores(model, family)
    assert not torch.allclose(expected, plain, atol=1e-5)
    # These shift keys, too, which Swin v2 normalises and gives no bias.
    if kind in ("ADAMSS", "GLORA") and family == "swinv2":
        with pytest.raises(SurgeryError, match="edits cannot be merged"):
            tuned.merge()
    else:
        assert torch.allclose(scores(tuned.merge(), family), expected, atol=1e-4)


def test_every_type_of_the_installed_peft_is_usable_or_refused_with_the_reason():
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    known = {str(kind.value) for kind in PEFT_TYPE_TO_CONFIG_MAPPING if hasattr(kind, "value")}
    refused = known - set(TYPES)
    assert len(TYPES) >= 34
    assert {"PROMPT_TUNING", "PREFIX_TUNING", "P_TUNING", "XLORA"} <= refused
    assert {"ADALORA", "FROD", "WAVEFT"} <= set(TYPES)
    for kind in refused:
        with pytest.raises(ConfigError) as caught:
            Peft(type=kind)
        reason = reason_against(kind)
        assert str(caught.value) == f"peft: type {kind} cannot be used on an image backbone: it {reason}."
    assert set(TYPES) >= NOT_MERGING


@pytest.mark.parametrize("text", TEXTS)
def test_text_and_settings_make_the_same_method(text):
    (method,) = parse(text)
    assert parse(method_text(method)) == (method,)
    assert Peft.from_settings(json.loads(json.dumps(method.settings()))) == method


def test_values_that_plain_text_cannot_say_are_encoded():
    method = Peft(options={"target_modules": r".*(q|v)", "rank_pattern": {"a,b": 2}})
    assert method_text(method).count("json:") == 2
    assert parse(method_text(method)) == (method,)


def test_a_config_comes_from_an_object_or_a_file(tmp_path):
    config = peft.LoraConfig(r=2, lora_alpha=4, target_modules=["attn.qkv"])
    method = Peft(config=config)
    assert method == parse("peft(r=2,lora_alpha=4,target_modules=attn.qkv)")[0]
    assert vitune.Peft is Peft is get_method("peft")
    config.save_pretrained(tmp_path)
    assert parse(f"peft(config={tmp_path})") == (method,)
    assert parse(f"peft(config={tmp_path}/adapter_config.json,r=3)")[0] == Peft(
        options={**method.options, "r": 3}
    )


def test_names_that_mean_the_same_layers():
    by_role = vitune.apply(backbone("plain"), parse("peft(target_modules=attn.qkv+mlp.in)"))
    by_name = vitune.apply(backbone("plain"), parse("peft(target_modules=qkv+fc1)"))
    by_pattern = vitune.apply(backbone("plain"), Peft(options={"target_modules": r".*\.(qkv|fc1)"}))
    assert list(by_role.trainable()) == list(by_name.trainable()) == list(by_pattern.trainable())
    assert by_role.costs() == by_name.costs()
    # A of 8 x 32 and B of 96 x 8 and 128 x 8, in four blocks
    assert by_role.costs().method_parameters == 4 * (8 * (32 + 96) + 8 * (32 + 128))


def test_shared_and_frozen_tensors_stay_so():
    tuned = vitune.apply(backbone("plain"), parse("peft(type=VERA,target_modules=attn.qkv+mlp.in,r=4)"))
    names = list(tuned.trainable())
    assert not any("vera_A" in name or "vera_B" in name for name in names)
    # d of 4 and b of 96 or 128, in four blocks; A and B are drawn once for all
    assert tuned.costs().method_parameters == 4 * (4 + 96 + 4 + 128)
    assert sum("vera_A" in name for name in tuned.state()) == 1


@pytest.mark.parametrize("text", TEXTS)
def test_weightless_costs_are_those_of_the_real_model(text):
    real = vitune.apply(backbone("plain"), parse(text), check=False)
    light = vitune.apply(backbone("plain").to("meta"), parse(text), check=False)
    assert light.costs() == real.costs()
    assert all(tensor.is_meta for tensor in light.state().values())
    assert kept_bytes(light.model) == kept_bytes(real.model) > 0


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (
            "peft(type=DORA)",
            ConfigError,
            "no type 'DORA' in the installed peft; DoRA is 'type=LORA,use_dora=true'.",
        ),
        ("peft(type=LORRA)", ConfigError, "no type 'LORRA' in the installed peft. Did you mean 'LORA'?"),
        ("peft(rr=3)", ConfigError, "LORA has no setting 'rr'. Did you mean 'r'?"),
        ("peft(r=x)", ConfigError, "r must be a whole number, not 'x'."),
        ("peft(config=nowhere)", ConfigError, "cannot read the config 'nowhere': No such file or directory."),
        (
            "peft(init_lora_weights=loftq)",
            ConfigError,
            "init_lora_weights=loftq cannot be used here: it is about quantised backbones",
        ),
        (
            "peft(init_lora_weights=pissa,target_modules=patch_embed)",
            ConfigError,
            "LORA does not fit this timm-vit backbone",
        ),
        (
            "peft(type=ADALORA,r=4)",
            ConfigError,
            "ADALORA with r cannot be used here: PEFT's AdaLoRA takes no notice of it; leave it out, and set init_r.",
        ),
        (
            "peft(type=ADALORA,init_lora_weights=pissa)",
            ConfigError,
            "ADALORA has no start 'pissa'; init_lora_weights must be true or false.",
        ),
        (
            "peft(type=ADALORA,target_r=12)",
            ConfigError,
            "ADALORA cuts ranks from init_r=12 to target_r=12 on average, so target_r must be smaller.",
        ),
        (
            "peft(target_parameters=a)",
            ConfigError,
            "LORA with target_parameters cannot be used here: it names",
        ),
        (
            "peft(r=0)",
            ConfigError,
            "LORA does not fit this timm-vit backbone: `r` should be a positive integer",
        ),
        (
            "peft(type=LORA,target_modules=norm)",
            ConfigError,
            "LORA does not fit this timm-vit backbone: Target module",
        ),
        (
            "peft(target_modules=attn.q)",
            UnsupportedBackboneError,
            "'attn.q' is rows of the fused layer 'attn.qkv' in this timm-vit backbone, and PEFT adapts whole layers; "
            "name 'attn.qkv', or use our lora, which adapts rows.",
        ),
        (
            "peft(target_modules=head)",
            UnsupportedBackboneError,
            "'head', which is the head; the head always trains",
        ),
        (
            "peft(target_modules=attn)",
            UnsupportedBackboneError,
            "'blocks.0.attn' is a Attention, not a layer of this",
        ),
        (
            "peft(target_modules=qvk)",
            NothingMatchedError,
            "which is no role and no module of this timm-vit backbone.",
        ),
        (
            "peft(layers_to_transform=9)",
            NothingMatchedError,
            "no layer is left to adapt after exclude_modules and layers_to_transform",
        ),
        (
            "lora,peft",
            CompositionError,
            "'lora' and 'peft' both edit blocks.0.attn.qkv, and PEFT's layer must be the inner one; give peft first: "
            "'peft(...),lora'.",
        ),
        ("peft,full", CompositionError, "full fine-tuning already trains every weight"),
    ],
)
def test_what_cannot_be_done_is_said_and_changes_nothing(text, error, message):
    model = backbone("plain")
    before, classes = list(model.state_dict()), [type(module) for module in model.modules()]
    with pytest.raises(error) as caught:
        vitune.apply(model, parse(text))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(model.state_dict()) == before
    assert [type(module) for module in model.modules()] == classes


def test_without_the_package_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError) as caught:
        parse("peft(r=4)")
    assert str(caught.value) == (
        "the method 'peft' needs the package 'peft', which is not installed; install it with: "
        "pip install 'vitune[peft]'"
    )


def test_weights_that_a_start_would_change_are_noticed(monkeypatch):
    from peft.tuners.lora import layer

    def spoiled(self: Any, name: str, init: Any, **kwargs: Any) -> None:
        self.get_base_layer().weight.data.add_(1.0)

    monkeypatch.setattr(layer.LoraLayer, "reset_lora_parameters", spoiled)
    model = backbone("plain")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(
        ConfigError, match=r"changes the backbone's own weights \('blocks\.0\.attn\.qkv'\) before"
    ):
        vitune.apply(model, parse("peft"))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("text", ["peft(r=2),bitfit", "peft(r=2),lora(rank=2)", "vpt(prompts=2),peft(r=2)"])
def test_a_config_lives_with_our_methods(text):
    tuned = vitune.apply(backbone("plain"), parse(text))
    train(tuned, "plain")
    expected = scores(tuned.model, "plain")
    kept = tuned.merge(partial=True)
    assert torch.allclose(scores(kept, "plain"), expected, atol=1e-4)
    assert not any(".vitune.peft" in name for name in kept.state_dict())


def test_edited_layers_survive_pickling():
    tuned = vitune.apply(backbone("plain"), parse("peft(r=2)"))
    train(tuned, "plain")
    again = pickle.loads(pickle.dumps(tuned.model))
    assert torch.equal(scores(again, "plain"), scores(tuned.model, "plain"))
    with torch.no_grad():  # what the copy wraps is the copy's own layer
        again.blocks[0].attn.qkv.weight.zero_()
    assert not torch.equal(scores(again, "plain"), scores(tuned.model, "plain"))
    assert parts_of(again.blocks[0].attn.qkv)[0] is nn.Linear


@pytest.mark.slow
def test_edited_layers_compile_and_export():
    tuned = vitune.apply(backbone("plain"), parse("peft(r=2,target_modules=attn.qkv+mlp.in)"))
    train(tuned, "plain")
    expected = scores(tuned.model, "plain")
    compiled = torch.compile(tuned.model, fullgraph=True, backend="aot_eager")
    assert torch.allclose(scores(compiled, "plain"), expected, atol=1e-5)
    exported = torch.export.export(tuned.model.eval(), (images("plain"),)).module()
    with torch.no_grad():
        assert torch.allclose(exported(images("plain")), expected, atol=1e-5)
