"""Trained parameters of full-size members of the families, on the meta device, against counts by hand.

Base size, 12 blocks of width 768: LoRA of rank 8 on q and v has 12 * 4 * 768 * 8 = 294,912; AdaptFormer of width 64 has
12 * (2 * 768 * 64 + 64 + 768) = 1,189,632; the biases of a plain ViT are 102,912, of which 12 * 768 = 9,216 are those
of the keys and 768 those of the patch embedding and of each norm outside the blocks.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest
import timm
import torch
from torch import nn

import vitune
from vitune.methods import parse

PLAIN, KEYS, NORM = 102_912, 12 * 768, 768
# Architecture of timm, or class of transformers with its default configuration: number of biases.
BASE = {
    "vit_base_patch16_224": PLAIN,
    "vit_base_patch16_dinov3": PLAIN - 3 * KEYS,  # qkv without bias; average pooling of a normed sequence
    "vit_base_patch16_dinov3_qkvb": PLAIN - KEYS,
    "vit_base_patch16_rope_224": PLAIN,
    "beitv2_base_patch16_224": PLAIN - KEYS,  # the norm lies behind the pooling
    "ViTForImageClassification": PLAIN,
    "DeiTForImageClassification": PLAIN,
    "Dinov2ForImageClassification": PLAIN,
    "Dinov2WithRegistersForImageClassification": PLAIN,
    "BeitForImageClassification": PLAIN - KEYS,
    "CLIPForImageClassification": PLAIN
    - NORM,  # a norm in front, none behind; the patch embedding has no bias
    "SiglipForImageClassification": PLAIN,
}


@functools.cache
def backbone(name: str) -> nn.Module:
    with torch.device("meta"):
        if "_" in name:
            return timm.create_model(name)
        transformers: Any = pytest.importorskip("transformers")
        kind = getattr(transformers, name)
        return kind(kind.config_class())


@pytest.mark.parametrize("name", BASE)
def test_counts(name):
    def count(text: str) -> int:
        tuned = vitune.apply(backbone(name), parse(text), check=False)
        counted = tuned.costs().method_parameters
        tuned.detach()
        return counted

    assert count("bitfit") == BASE[name]
    assert count("lora") == 294_912
    assert count("adaptformer") == 1_189_632
