"""The backbone families of the contract: real architectures of timm and transformers, shrunk to milliseconds."""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass, field
from typing import Any

import timm
import torch
from torch import Tensor, nn

import vitune.backbones as vitune_backbones  # registers AS-MLP

assert vitune_backbones.BUILT_IN
CLASSES = 3
SMALL = {"img_size": 32, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": CLASSES}
SMALL_HF = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 16,
    "num_labels": CLASSES,
}


@dataclass(frozen=True)
class Family:
    """One backbone to hold the contract on.

    Attributes:
        anatomy: The anatomy family it must be found as.
        name: timm architecture, or class of transformers.
        arguments: What shrinks it.
        features: What about it methods must ask for: `head`, `fused` (qkv), `rebuilt` (its record alone makes it
            again), `norm` (a final norm in front of the pooling), `deep` (four blocks), `points` (in its blocks).
        uniform: Whether all blocks see tokens (B, N, D) of one width; only cases that say so run on other families.
        pixels: Side of the images, where it is no argument of the architecture.
    """

    anatomy: str
    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    features: frozenset[str] = frozenset({"head", "fused", "rebuilt", "norm"})
    uniform: bool = True
    pixels: int = 32


SWIN = {"img_size": 32, "embed_dim": 16, "depths": [1, 2], "num_heads": [2, 4], "window_size": 4}
# Hierarchical or no transformers at all.
OTHERS: dict[str, tuple[str, str, dict[str, Any], frozenset[str]]] = {
    "swin": (
        "timm-swin",
        "swin_tiny_patch4_window7_224",
        SWIN,
        frozenset({"head", "fused", "rebuilt", "norm", "points"}),
    ),
    "swinv2": (
        "timm-swin",
        "swinv2_tiny_window8_256",
        SWIN,
        frozenset({"head", "fused", "rebuilt", "norm", "points"}),
    ),
    "convnext": (
        "timm-convnext",
        "convnext_tiny",
        {"dims": [8, 12, 16, 24], "depths": [1, 1, 2, 1]},
        frozenset({"head", "rebuilt", "points"}),
    ),
    "mixer": (
        "timm-mixer",
        "mixer_s32_224",
        {"img_size": 64, "mlp_ratio": [0.1, 0.1]},
        frozenset({"head", "rebuilt", "norm", "points"}),
    ),
    "resnet": (
        "timm-cnn",
        "resnet18",
        {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 24], "stem_width": 8},
        frozenset({"head", "rebuilt"}),
    ),
    "as_mlp": (
        "as-mlp",
        "as_mlp_tiny",
        {"img_size": 32, "embed_dim": 12, "depths": [1, 2]},
        frozenset({"head", "rebuilt", "norm", "points"}),
    ),
}

_TEXT = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
_TOWER = {"vision_config": SMALL_HF, "text_config": _TEXT | {"vocab_size": 50000}, "num_labels": CLASSES}
_CLASSIFIER = frozenset({"head", "rebuilt", "norm"})
HF: dict[str, tuple[str, str, dict[str, Any], frozenset[str]]] = {
    "hf_deit": ("hf-deit", "DeiTForImageClassificationWithTeacher", SMALL_HF, _CLASSIFIER),
    "hf_dinov2": ("hf-dinov2", "Dinov2WithRegistersForImageClassification", SMALL_HF, _CLASSIFIER),
    "hf_dinov3": ("hf-dinov3", "DINOv3ViTModel", SMALL_HF | {"num_register_tokens": 4}, frozenset({"norm"})),
    "hf_beit": (
        "hf-beit",
        "BeitForImageClassification",
        SMALL_HF | {"use_mean_pooling": False, "use_relative_position_bias": True},
        _CLASSIFIER,
    ),
    "hf_clip": ("hf-clip", "CLIPForImageClassification", _TOWER, frozenset({"head", "rebuilt"})),
    "hf_siglip": ("hf-siglip", "SiglipForImageClassification", _TOWER, _CLASSIFIER),
    "hf_timm": (
        "hf-timm",
        "TimmWrapperForImageClassification",
        {"architecture": "vit_tiny_patch16_224", "num_labels": CLASSES}
        | {"model_args": {"img_size": 32, "embed_dim": 32, "depth": 2, "num_heads": 2}},
        _CLASSIFIER | {"fused"},
    ),
}

# A classifier of text; its "images" are token ids.
LLAMA: dict[str, Any] = {
    "vocab_size": 32,
    "hidden_size": 32,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "attention_bias": True,
    "use_cache": False,
    "pad_token_id": 0,
    "num_labels": CLASSES,
}

FAMILIES = {
    "plain": Family(
        "timm-vit",
        "vit_tiny_patch16_224",
        {"depth": 4},
        frozenset({"head", "fused", "rebuilt", "norm", "deep"}),
    ),
    "distilled": Family("timm-vit", "deit_tiny_distilled_patch16_224"),
    "clip": Family("timm-vit", "vit_base_patch16_clip_224"),
    "registers": Family("timm-vit", "vit_small_patch14_reg4_dinov2", {"img_size": 28}),
    "siglip": Family("timm-vit", "vit_base_patch16_siglip_224"),
    "gap": Family("timm-vit", "vit_base_patch16_gap_224"),
    "fc_norm": Family(
        "timm-vit", "vit_tiny_patch16_224", {"global_pool": "avg"}, frozenset({"head", "fused", "rebuilt"})
    ),
    "layer_scale": Family("timm-vit", "deit3_small_patch16_224"),
    "no_qkv_bias": Family("timm-vit", "vit_tiny_patch16_224", {"qkv_bias": False}),
    "qk_norm": Family("timm-vit", "vit_tiny_patch16_224", {"qk_norm": True}),
    "glu": Family("timm-vit", "vit_giant_patch14_dinov2", {"img_size": 28}),
    "inner_norms": Family("timm-vit", "beit3_base_patch16_224", {}, frozenset({"head", "fused", "rebuilt"})),
    "rms_swiglu": Family("timm-vit", "aimv2_large_patch14_224", {"img_size": 28}),
    **{name: Family(*values, uniform=False) for name, values in OTHERS.items()},
    "hf": Family("hf-vit", "ViTForImageClassification", SMALL_HF, frozenset({"head", "rebuilt", "norm"})),
    "hf_features": Family("hf-vit", "ViTModel", SMALL_HF, frozenset({"norm"})),
    "eva02": Family(
        "timm-eva",
        "eva02_base_patch14_224",
        {"img_size": 28, "global_pool": "token"},
        frozenset({"head", "rebuilt", "norm"}),
    ),
    "dinov3": Family("timm-eva", "vit_small_patch16_dinov3", {"global_pool": "token"}),
    "beit": Family("timm-beit", "beitv2_base_patch16_224", {"global_pool": "token"}),
    "naflex": Family("timm-naflex", "naflexvit_base_patch16_map"),
    **{name: Family(*values) for name, values in HF.items()},
    "hf_swin": Family(
        "hf-swin",
        "SwinForImageClassification",
        {"image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [1, 2], "num_heads": [2, 4]}
        | {"window_size": 4, "num_labels": CLASSES},
        frozenset({"head", "rebuilt", "norm", "points"}),
        uniform=False,
    ),
    "hf_convnext": Family(
        "hf-convnext",
        "ConvNextForImageClassification",
        {"image_size": 32, "hidden_sizes": [8, 12, 16, 24], "depths": [1, 1, 2, 1], "num_labels": CLASSES},
        frozenset({"head", "rebuilt", "norm", "points"}),
        uniform=False,
    ),
    "hf_llama": Family(
        "hf-llama",
        "LlamaForSequenceClassification",
        LLAMA,
        frozenset({"head", "rebuilt", "norm"}),
        uniform=False,
    ),
}


@functools.cache
def _original(family: str) -> nn.Module:
    found = FAMILIES[family]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if found.anatomy.startswith("hf-"):
            import transformers

            made = getattr(transformers, found.name)
            model = made(made.config_class(**found.arguments))
        else:
            small = SMALL if found.uniform else {"num_classes": CLASSES}
            model = timm.create_model(found.name, **{**small, **found.arguments})
        # Zero biases, unit norms and tiny LayerScales would hide mistakes.
        for parameter in model.parameters():
            parameter.data.add_(0.1 * torch.randn_like(parameter))
        for name, buffer in model.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.add_(0.1 * torch.rand_like(buffer))
    return model.train()


def backbone(family: str) -> nn.Module:
    """A fresh model of a family, the same numbers every time, in training mode."""
    return copy.deepcopy(_original(family))


def images(family: str, batch: int = 2, seed: int = 1) -> Tensor:
    """What the family takes: images (B, 3, height, width), or token ids (B, 6)."""
    arguments, generator = FAMILIES[family].arguments, torch.Generator().manual_seed(seed)
    if "vocab_size" in arguments:
        return torch.randint(1, arguments["vocab_size"], (batch, 6), generator=generator)
    size = arguments.get("img_size", FAMILIES[family].pixels)
    return torch.randn(batch, 3, size, size, generator=generator)
