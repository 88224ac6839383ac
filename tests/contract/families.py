"""The backbone families of the contract: real architectures of timm and transformers, shrunk to milliseconds."""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass, field
from typing import Any

import timm
import torch
from torch import Tensor, nn

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
            again), `norm` (a final norm in front of the pooling).
    """

    anatomy: str
    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    features: frozenset[str] = frozenset({"head", "fused", "rebuilt", "norm"})


FAMILIES = {
    "plain": Family("timm-vit", "vit_tiny_patch16_224"),
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
    "hf": Family("hf-vit", "ViTForImageClassification", SMALL_HF, frozenset({"head", "rebuilt", "norm"})),
    "hf_features": Family("hf-vit", "ViTModel", SMALL_HF, frozenset({"norm"})),
}


@functools.cache
def _original(family: str) -> nn.Module:
    found = FAMILIES[family]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if found.anatomy == "hf-vit":
            import transformers

            model = getattr(transformers, found.name)(transformers.ViTConfig(**found.arguments))
        else:
            model = timm.create_model(found.name, **{**SMALL, **found.arguments})
        # Zero biases, unit norms and tiny LayerScales would hide mistakes.
        for parameter in model.parameters():
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model.train()


def backbone(family: str) -> nn.Module:
    """A fresh model of a family, the same numbers every time, in training mode."""
    return copy.deepcopy(_original(family))


def images(family: str, batch: int = 2, seed: int = 1) -> Tensor:
    """Images that the family takes: (B, 3, height, width)."""
    size = FAMILIES[family].arguments.get("img_size", SMALL["img_size"])
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))
