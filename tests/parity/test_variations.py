"""Options, sizes and placements of the references beyond their goldens, against plain models of their formulas."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.parity.golden import read
from tests.parity.harness import check
from tests.parity.plain import maps, methods, prompts, ssf
from tests.parity.plain.backbones import Backbone, Swin, ViT
from tests.parity.plain.goldens import write, write_importance, write_selection

VIT: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 48,
    "depth": 3,
    "num_heads": 3,
    "mlp_ratio": 4,
    "num_classes": 7,
    "qkv_bias": True,
    "norm_eps": 1e-6,
}
# Nothing even: sides, heads, hidden width, classes.
UNEVEN = VIT | {
    "img_size": [36, 48],
    "patch_size": 12,
    "embed_dim": 60,
    "depth": 4,
    "num_heads": 5,
    "mlp_ratio": 2.5,
    "num_classes": 11,
}
NO_BIAS, SCALED = VIT | {"qkv_bias": False}, VIT | {"init_values": 0.3}
AVERAGE = VIT | {"global_pool": "avg", "init_values": 0.1}
NO_CLASS = VIT | {"global_pool": "avg", "class_token": False}
SWIN: dict[str, Any] = {
    "family": "swin",
    "img_size": 32,
    "patch_size": 2,
    "embed_dim": 12,
    "depths": [2, 2, 2],
    "num_heads": [1, 2, 4],
    "window_size": 4,
    "mlp_ratio": 4.0,
    "num_classes": 7,
    "qkv_bias": True,
    "norm_eps": 1e-5,
}
# Its last stage has several windows, so that prompts of the last block are told apart by window.
WIDE_SWIN = SWIN | {"patch_size": 4, "img_size": 64, "depths": [1, 3], "num_heads": [2, 4], "mlp_ratio": 2.0}
CONVNEXT: dict[str, Any] = {
    "family": "convnext",
    "img_size": 64,
    "patch_size": 4,
    "depths": [1, 1, 2, 1],
    "dims": [12, 24, 32, 48],
    "kernel": 7,
    "layer_scale": True,
    "num_classes": 7,
    "norm_eps": 1e-6,
}
AS_MLP: dict[str, Any] = {
    "family": "as_mlp",
    "img_size": 32,
    "patch_size": 4,
    "embed_dim": 24,
    "depths": [2, 2],
    "shift_size": 5,
    "mlp_ratio": 4.0,
    "as_bias": True,
    "num_classes": 7,
}
ADAPTFORMER = {
    "bottleneck": 5,
    "option": "parallel",
    "scalar": "0.1",
    "layernorm": "none",
    "adapter_bias": True,
}
PETL = {"dim": 4, "scale": 10.0, "bits": 32, "dropout": 0.1, "adapter_bias": False}
ADAPTER = {"style": "pfeiffer", "bottleneck": 6, "activation": "gelu_exact", "scale": 0.7}
SCT = {"topN": 9, "mode": "sct_attn", "scale": 1.0, "scale_on": "branch"}
VPT = {"num_prompts": 4, "deep": True, "project": -1, "prompt_dropout": 0.1}
SHALLOW, PROJECT = VPT | {"deep": False}, VPT | {"project": 7}
E2VPT = {
    "num_visual_prompts": 4,
    "num_kv_prompts": 3,
    "kv_shared": True,
    "kv_prompts_first": True,
    "segments": 0,
    "visual_prompts_deep": True,
    "kv_prompts_all_layers": True,
}
SOFT = E2VPT | {"segments": 16, "masks_trainable": True, "masked": ["tokens", "segments"]}
SCORED = SOFT | {"percentages": list(range(10, 100, 10)), "min_tokens_kept": 1, "min_segments_kept": 4}
MAE = VIT | {"pooling": "mean over all tokens but cls, prompts included, then fc_norm", "global_pool": "avg"}
MAE_PATCHES = MAE | {"pooling": "mean over patch tokens only, then fc_norm"}

Variation = tuple[str, Backbone, str, dict[str, Any]]
TABLE: list[Variation] = []


def add(name: str, model: Backbone, method: str, **how: Any) -> None:
    TABLE.append((name, model, method, how))


for method, of_vit, of_swin in (
    ("full", methods.FullViT, methods.FullSwin),
    ("bitfit", methods.BitFitViT, methods.BitFitSwin),
    ("linear", ViT, Swin),
):
    for name, given in {
        "uneven": UNEVEN,
        "no bias": NO_BIAS,
        "average": AVERAGE,
        "no class": NO_CLASS,
    }.items():
        add(f"{method} {name}", of_vit(given), method)
    add(f"{method} patches", of_vit(VIT | {"img_size": [24, 40], "patch_size": [12, 8]}), method)
    add(f"{method} names of KMnP", of_vit(VIT), method, names="vpt")
    add(f"{method} swin", of_swin(SWIN), method)
    add(f"{method} swin names of KMnP", of_swin(WIDE_SWIN), method, names="wrapped")

for option in ("parallel", "sequential"):
    for norm in ("none", "in", "out"):
        for scalar in ("0.1", "learnable_scalar"):
            options = ADAPTFORMER | {"option": option, "layernorm": norm, "scalar": scalar}
            model = methods.AdaptFormer(VIT, **options)
            add(f"adaptformer {option} {norm} {scalar}", model, "adaptformer", names="official")
for name, given, options in (
    ("uneven", UNEVEN, {"bottleneck": 64}),
    ("no biases", VIT, {"bottleneck": 1, "adapter_bias": False}),
    ("average", VIT | {"global_pool": "avg"}, {}),
):
    model = methods.AdaptFormer(given, **(ADAPTFORMER | options))
    add(f"adaptformer {name}", model, "adaptformer", names="official")
add("adaptformer petl", methods.PetlAdaptFormer(UNEVEN, **PETL), "adaptformer")
add("lora", methods.Lora(UNEVEN, **PETL), "lora")
add("lora no bias", methods.Lora(NO_BIAS, **(PETL | {"dim": 1, "scale": 0.1})), "lora")
add("lora noah", methods.NoahLora(VIT, dim=3), "lora")
for targets in (["qkv"], ["attn.proj", "fc1", "fc2"]):
    model = methods.PeftLora(VIT, r=3, lora_alpha=12, lora_dropout=0.1, target_modules=targets)
    add(f"lora peft {'+'.join(targets)}", model, "lora", names="peft")
for style in ("pfeiffer", "houlsby"):
    for activation in ("gelu_exact", "quickgelu", "relu"):
        model = methods.Adapter(VIT, **(ADAPTER | {"style": style, "activation": activation}))
        add(f"adapter {style} {activation}", model, "adapter")
add("adapter uneven", methods.Adapter(UNEVEN, **ADAPTER), "adapter")

for name, given in {
    "uneven": UNEVEN,
    "no bias": NO_BIAS,
    "scaled": SCALED,
    "average": AVERAGE,
    "no class": NO_CLASS,
}.items():
    add(f"ssf {name}", ssf.SsfViT(given), "ssf")
for name, given in {
    "swin no bias": SWIN | {"qkv_bias": False},
    "swin wide": WIDE_SWIN | {"patch_merging_pair": True},
}.items():
    add(f"ssf {name}", ssf.SsfSwin(given), "ssf")
add("ssf convnext no scale", ssf.SsfConvNeXt(CONVNEXT | {"layer_scale": False, "kernel": 5}), "ssf")
narrow = CONVNEXT | {"dims": [8, 8, 16, 24], "downsample_pairs": True}
add("ssf convnext narrow", ssf.SsfConvNeXt(narrow), "ssf")
for name, options in {
    "patch pairs": {"patch_embed_pairs": True},
    "merging pair": {"patch_merging_pair": True},
    "no bias": {"as_bias": False},
    "shift 3": {"shift_size": 3, "depths": [1, 1, 1], "mlp_ratio": 2.0},
    "shift 7": {"shift_size": 7, "embed_dim": 20},
}.items():
    add(f"ssf as_mlp {name}", ssf.SsfAsMlp(AS_MLP | options), "ssf")
add("linear as_mlp", maps.AsMlp(AS_MLP), "linear")
add("full as_mlp", maps.FullAsMlp(AS_MLP | {"as_bias": False}), "full")
add("full convnext", maps.FullConvNeXt(CONVNEXT), "full")

for mode in ("sct_attn", "sct_mlp", "sct_qkv"):
    options = SCT | {"mode": mode}
    add(f"{mode} uneven", methods.SctViT(UNEVEN, **(options | {"topN": 33})), "sct")
    add(f"{mode} scaled", methods.SctViT(SCALED | {"qkv_bias": False}, **options), "sct")
    add(f"{mode} average", methods.SctViT(AVERAGE, **options), "sct")
    for scale, where in ((0.4, "branch"), (0.65, "input")):
        if mode != "sct_qkv":
            model = methods.SctViT(VIT, **(options | {"scale": scale, "scale_on": where}))
            add(f"{mode} {where}", model, "sct")
ignored = SCT | {"mode": "sct_qkv", "scale": 0.4}
add(
    "sct_qkv factor that is ignored",
    methods.SctViT(VIT, topN=9, mode="sct_qkv"),
    "sct",
    hyperparameters=ignored,
)
for where in ("branch", "input"):
    given = SWIN | {"depths": [1, 4, 2], "num_heads": [1, 2, 2]}
    add(f"sct swin {where}", methods.SctSwin(given, **(SCT | {"scale": 0.5, "scale_on": where})), "sct")

for name, given, options in (
    ("deep uneven", UNEVEN, VPT | {"num_prompts": 20}),
    ("shallow uneven", UNEVEN, SHALLOW | {"num_prompts": 20}),
    ("one prompt", VIT, VPT | {"num_prompts": 1}),
    ("one block", VIT | {"depth": 1}, VPT),
    ("shallow projected", VIT, SHALLOW | {"project": 7}),
    ("first two blocks", VIT, VPT | {"layers": 2}),
    ("deep with biases", VIT, VPT | {"biases": True}),
    ("shallow with biases", VIT, SHALLOW | {"biases": True}),
):
    add(f"vpt {name}", prompts.PromptedViT(given, **options), "vpt", names="vpt")
for name, options in {"deep": VPT, "shallow": SHALLOW, "projected": PROJECT}.items():
    add(f"vpt moco {name}", prompts.PromptedMoco(VIT, **options), "vpt", names="wrapped")
    add(f"vpt mae {name}", prompts.PromptedMae(MAE, **options), "vpt", names="wrapped")
    add(f"vpt mae patches {name}", prompts.PromptedMae(MAE_PATCHES, **options), "vpt", names="wrapped")
for name, options in {"deep": VPT, "shallow": SHALLOW, "biases": VPT | {"biases": True}}.items():
    for batch in (1, 3):
        for size, given in {"": SWIN, " wide": WIDE_SWIN}.items():
            model = prompts.PromptedSwin(given, **(options | {"num_prompts": 7}))
            add(f"vpt swin{size} {name} {batch}", model, "vpt", names="wrapped", batch=batch)

for name, options in {
    "unshared": SOFT | {"kv_shared": False},
    "behind": E2VPT | {"kv_prompts_first": False},
    "kv alone": E2VPT | {"num_visual_prompts": 0},
    "visual alone": E2VPT | {"num_kv_prompts": 0},
    "shallow": E2VPT | {"visual_prompts_deep": False},
    "kv in the first block": E2VPT | {"kv_prompts_all_layers": False},
    "soft shallow": SOFT | {"visual_prompts_deep": False},
    "soft projected": SOFT | {"project": 7},
    "soft tokens": SOFT | {"segments": 0, "masked": ["tokens"]},
    "soft segments": SOFT | {"segments": 8, "masked": ["segments"]},
    "fixed": SOFT | {"masks_trainable": False},
    "fixed tokens": SOFT | {"segments": 0, "masks_trainable": False, "masked": ["tokens"]},
    "fixed shallow": SOFT | {"masks_trainable": False, "visual_prompts_deep": False},
    "one prompt": SOFT | {"num_visual_prompts": 1, "num_kv_prompts": 1},
}.items():
    add(f"e2vpt {name}", prompts.PromptedViT(VIT, **options), "e2vpt", names="vpt")
add("e2vpt uneven", prompts.PromptedViT(UNEVEN, **(SOFT | {"segments": 15})), "e2vpt", names="vpt")
for name, options in {"deep": SOFT, "shallow": SOFT | {"visual_prompts_deep": False}}.items():
    add(f"e2vpt mae {name}", prompts.PromptedMae(MAE, **options), "e2vpt", names="wrapped")
    for batch in (1, 3):
        model = prompts.PromptedSwin(SWIN, **(options | {"segments": 4}))
        add(f"e2vpt swin {name} {batch}", model, "e2vpt", names="wrapped", batch=batch)


@pytest.mark.parametrize(("name", "model", "method", "how"), TABLE, ids=[row[0] for row in TABLE])
def test_variation(name, model, method, how, tmp_path):
    result = check(write(tmp_path / "plain.safetensors", model, method, **how))
    assert result["ok"], json.dumps(result)


@pytest.mark.parametrize("mode", ["sct_attn", "sct_mlp", "sct_qkv"])
def test_choice_of_channels(mode, tmp_path):
    model = methods.SctViT(UNEVEN | {"qkv_bias": False}, topN=33, mode=mode)
    result = check(write_selection(tmp_path / "plain.safetensors", model, sizes=[4, 1, 0, 7], batch=5))
    assert result["ok"], json.dumps(result)


# Prompts so small that the LayerNorm's eps shows; as they start; and large.
@pytest.mark.parametrize("spread", [2e-3, 0.06, 1.0])
@pytest.mark.parametrize(
    ("number", "options"),
    [
        (5, {"segments": 8}),
        (12, {"kv_shared": False}),
        (1, {"segments": 4}),
        (6, {"visual_prompts_deep": False}),
    ],
)
def test_importance(number, options, spread, tmp_path):
    model = prompts.PromptedViT(VIT, **(SCORED | options | {"num_visual_prompts": number}))
    path = write_importance(tmp_path / "plain.safetensors", model, "vpt", batches=[3, 3, 1], spread=spread)
    result = check(path)
    assert result["ok"], json.dumps(result)


def test_importance_in_a_swin(tmp_path):
    model = prompts.PromptedSwin(SWIN, **(SCORED | {"segments": 4}))
    result = check(write_importance(tmp_path / "plain.safetensors", model, "wrapped", batches=[3, 1]))
    assert result["ok"], json.dumps(result)


def changed(path, metadata: dict[str, Any] | None = None, **tensors: torch.Tensor):
    """The same file with other hyper-parameters or tensors."""
    golden, weights = read(path), load_file(path)
    given = {
        "kind": golden.kind,
        "method": golden.method,
        "backbone": json.dumps(golden.backbone),
        "hyperparameters": json.dumps({**golden.hyperparameters, **(metadata or {})}),
    }
    save_file(weights | tensors, path, metadata=given)
    return check(path)


def test_metadata_that_nothing_reads_is_told_of_a_file_that_is_not_ok(tmp_path):
    path = write(tmp_path / "plain.safetensors", methods.Lora(VIT, **PETL), "lora")
    assert "metadata_not_read" not in changed(path, {"warp": 2})
    result = changed(path, {"warp": 2}, logits=load_file(path)["logits"] + 1)
    assert not result["ok"]
    assert "hyperparameters.warp" in result["metadata_not_read"]
    assert "hyperparameters.scale" not in result["metadata_not_read"]


def test_rounding_excuses_what_rounding_can_move_and_no_more(tmp_path):
    steep = methods.Lora(UNEVEN, **(PETL | {"scale": 20.0}))
    assert check(write(tmp_path / "steep.safetensors", steep, "lora", seed=2))["ok"]
    flat = write(tmp_path / "flat.safetensors", methods.Lora(VIT, **(PETL | {"scale": 0.01})), "lora")
    assert check(flat)["ok"]
    assert not changed(flat, logits=load_file(flat)["logits"] + 2e-5)["ok"]


def test_one_file_that_cannot_be_built_does_not_end_the_check(tmp_path):
    path = write(tmp_path / "plain.safetensors", ssf.SsfConvNeXt(CONVNEXT), "ssf")
    golden = read(path)
    given = json.dumps({**golden.backbone, "dims": [12]})
    save_file(load_file(path), path, metadata={"kind": "model", "method": "ssf", "backbone": given})
    result = check(path)
    assert not result["ok"]
    assert result["error"]
