"""Architectures beside the families of the table: one short contract each, with the six oldest methods.

Parallel and post-norm blocks, hybrids with a convolutional stem, the many uses of timm's `Eva`, and the towers of
transformers without a classifier.
"""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import vitune
from tests.contract.families import CLASSES, SMALL, SMALL_HF
from tests.contract.steps import Step
from vitune.adapters import merge, unfoldable
from vitune.anatomy import anatomy, logits
from vitune.errors import SurgeryError
from vitune.lean import LEVELS, blocks
from vitune.methods import parse

METHODS = (
    "full",
    "linear",
    "bitfit",
    "lora",
    "lora(rank=2,roles=all-linear)",
    "ssf",
    "adaptformer(bottleneck=4)",
    "adaptformer(bottleneck=4,placement=sequential)",
)
# Architecture of timm: arguments beside the small ones, and the family it must be found as.
TIMM: dict[str, tuple[dict[str, Any], str]] = {
    "vit_small_patch16_18x2_224": ({}, "timm-vit"),  # attentions side by side, then MLPs
    "vit_base_patch16_xp_224": ({"patch_size": 16}, "timm-vit"),  # attention beside MLP
    "vit_dpwee_patch16_reg1_gap_256": ({}, "timm-vit"),  # differential attention beside MLP
    "vit_dwee_patch16_reg1_gap_256": ({}, "timm-vit"),  # differential attention
    "vit_base_patch16_rpn_224": ({}, "timm-vit"),  # norms behind attention and MLP
    "vit_tiny_r_s16_p8_224": ({"img_size": 64}, "timm-vit"),  # convolutional stem
    "vit_base_mci_224": ({"img_size": 32, "embed_dim": 768, "depth": 1, "num_heads": 4}, "timm-vit"),
    "eva_giant_patch14_224": ({"img_size": 28}, "timm-eva"),  # bias of the fused qkv apart
    "eva02_tiny_patch14_224": ({"img_size": 28}, "timm-eva"),  # the same, and rotary positions
    "eva02_enormous_patch14_clip_224": ({"img_size": 28}, "timm-eva"),  # norms behind attention and MLP
    "vit_small_plus_patch16_dinov3_qkvb": ({}, "timm-eva"),
    "vit_small_patch16_rope_mixed_ape_224": ({}, "timm-eva"),  # positions that differ between blocks
    "vit_pe_core_tiny_patch16_384": ({}, "timm-eva"),  # pre-norm, attention pooling
    "vit_base_patch16_sapiens2": ({"num_kv_heads": 1}, "timm-eva"),  # fewer heads of keys than of queries
    "beit_base_patch16_224": ({}, "timm-beit"),  # average pooling
    "naflexvit_base_patch16_gap": ({}, "timm-naflex"),
    "naflexvit_so150m2_patch16_reg1_gap": ({}, "timm-naflex"),
}
# Class of transformers: settings, and the family it must be found as.
HF: dict[str, tuple[dict[str, Any], str]] = {
    "DeiTModel": (SMALL_HF, "hf-deit"),
    "DeiTForImageClassification": (SMALL_HF, "hf-deit"),
    "Dinov2ForImageClassification": (SMALL_HF | {"use_swiglu_ffn": True}, "hf-dinov2"),
    "DINOv3ViTModel": (SMALL_HF | {"use_gated_mlp": True, "num_register_tokens": 2}, "hf-dinov3"),
    "BeitModel": (SMALL_HF | {"use_shared_relative_position_bias": True, "use_mask_token": True}, "hf-beit"),
    "CLIPVisionModel": (SMALL_HF, "hf-clip"),
    "SiglipVisionModel": (SMALL_HF, "hf-siglip"),
    "SwinModel": (  # windows that do not divide the grid
        {"image_size": 36, "patch_size": 4, "embed_dim": 16, "depths": [2, 1], "num_heads": [2, 2]}
        | {"window_size": 4},
        "hf-swin",
    ),
    "TimmWrapperModel": (
        {"architecture": "beitv2_base_patch16_224"}
        | {"model_args": {"img_size": 32, "embed_dim": 32, "depth": 2, "num_heads": 2}},
        "hf-timm",
    ),
}
PARALLEL = ("vit_small_patch16_18x2_224", "vit_base_patch16_xp_224", "vit_dpwee_patch16_reg1_gap_256")
FAMILY_OF = {name: family for name, (_, family) in (TIMM | HF).items()}


@functools.cache
def _original(name: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if name in TIMM:
            made = timm.create_model(name, **{**SMALL, **TIMM[name][0]})
        else:
            transformers = pytest.importorskip("transformers")
            kind = getattr(transformers, name)
            made = kind(kind.config_class(**HF[name][0]))
        for parameter in made.parameters():
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    return made.eval()


def backbone(name: str) -> nn.Module:
    return copy.deepcopy(_original(name))


def images(model: nn.Module) -> Tensor:
    return torch.randn(2, *anatomy(model).input_size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", FAMILY_OF)
def test_found_as_its_family(name):
    found = anatomy(backbone(name))
    assert found.family == FAMILY_OF[name]
    assert logits(found.model, images(found.model)).shape[1] in (CLASSES, found.width)


@pytest.mark.parametrize("text", METHODS)
@pytest.mark.parametrize("name", FAMILY_OF)
def test_applied_stepped_merged_and_taken_off(name, text):
    model = backbone(name)
    found = anatomy(model)
    if text == "linear" and not found.head:
        return
    batch, plain = images(model), model.state_dict()
    before = {key: tensor.clone() for key, tensor in plain.items()}
    with torch.no_grad():
        expected = logits(model, batch)
    if "sequential" in text and name in PARALLEL:
        with pytest.raises(SurgeryError, match=r"no point 'mlp\.output'"):
            vitune.apply(model, parse(text))
        return
    tuned = vitune.apply(model, parse(text))  # the gate passes
    with torch.no_grad():
        same = torch.equal(tuned(batch), expected)
    # nn.MultiheadAttention chooses its kernels by what is frozen.
    assert same == all(method.starts_at_identity for method in tuned.methods) or name == "SiglipVisionModel"
    tuned(batch).square().sum().backward()
    torch.optim.SGD(tuned.parameters(), lr=1e-3).step()
    held = tuned.state().keys()
    after = tuned.model.state_dict()
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items() if key not in held)
    with torch.no_grad():
        stepped = tuned(batch)
        assert not torch.equal(stepped, expected)
        stuck = unfoldable(tuned)
        merge(tuned, partial=True)
        torch.testing.assert_close(tuned(batch), stepped, rtol=1e-4, atol=1e-5)
    assert sorted(f"{edit.role} ({edit.edit})" for edit in tuned.costs().edits) == sorted(stuck)
    tuned.detach()
    kinds = [type(module) for module in _original(name).modules()]
    assert [type(module) for module in model.modules()] == kinds


@pytest.mark.parametrize("level", [level for level in LEVELS if level != "stock"])
@pytest.mark.parametrize("name", FAMILY_OF)
def test_no_memory_level_changes_a_gradient(monkeypatch, name, level):
    monkeypatch.setattr(blocks, "TOKENS", 1)
    ours, stock = (vitune.apply(backbone(name).train(), parse("full")) for _ in range(2))
    batch = images(stock.model)
    Step.of(ours, batch, level).assert_like(Step.of(stock, batch, "stock"))


@pytest.mark.parametrize("name", FAMILY_OF)
def test_saved_and_loaded(name, tmp_path):
    tuned = vitune.apply(backbone(name), parse("lora,ssf(roles=norm1)"))
    batch = images(tuned.model)
    tuned.save(tmp_path / "adapter")
    loaded = vitune.load(tmp_path / "adapter", model=backbone(name))
    with torch.no_grad():
        assert torch.equal(loaded(batch), tuned(batch))
