"""Trained parameters at full size, as published. The models are made on the meta device: no memory, no time."""

from __future__ import annotations

import functools

import pytest
import timm
import torch
from torch import nn

import vitune
from vitune.methods import parse

COUNTS = {
    ("full", "vit_base_patch16_224"): 85_798_656,
    ("linear", "vit_base_patch16_224"): 0,
    ("bitfit", "vit_base_patch16_224"): 102_912,
    ("ssf", "vit_base_patch16_224"): 205_824,
    ("ssf", "vit_large_patch16_224"): 544_768,
    ("lora", "vit_base_patch16_224"): 294_912,
    ("lora(roles=attn.q+attn.k+attn.v,share_down=true)", "vit_base_patch16_224"): 294_912,  # NOAH's form
    ("lora(roles=attn.qkv)", "vit_base_patch16_224"): 294_912,  # as generic libraries do on timm
    ("lora(rank=4)", "vit_base_patch16_224"): 147_456,
    ("lora(rank=16)", "vit_base_patch16_224"): 589_824,
    ("lora(rank=32)", "vit_base_patch16_224"): 1_179_648,
    ("lora(rank=64)", "vit_base_patch16_224"): 2_359_296,
    ("adaptformer", "vit_base_patch16_224"): 1_189_632,
    ("adaptformer(bottleneck=1)", "vit_base_patch16_224"): 27_660,
    ("adaptformer(bottleneck=4)", "vit_base_patch16_224"): 82_992,
    ("adaptformer(bottleneck=8)", "vit_base_patch16_224"): 156_768,
    ("adaptformer(bottleneck=16)", "vit_base_patch16_224"): 304_320,
    ("adaptformer(bottleneck=32)", "vit_base_patch16_224"): 599_424,
    ("adaptformer(bottleneck=256)", "vit_base_patch16_224"): 4_730_880,
    ("adaptformer(bottleneck=8,bias=false)", "vit_base_patch16_224"): 147_456,
    ("adaptformer(bottleneck=16,bias=false)", "vit_base_patch16_224"): 294_912,
    ("adaptformer(bottleneck=32,bias=false)", "vit_base_patch16_224"): 589_824,
    ("adaptformer(bottleneck=64,bias=false)", "vit_base_patch16_224"): 1_179_648,
    ("adaptformer(bottleneck=8,layernorm=in,scale=1.0)", "vit_base_patch16_224"): 175_200,  # V-PETL
    ("adaptformer(bottleneck=8,scale=learnable)", "vit_base_patch16_224"): 156_780,
}


@functools.cache
def model(name: str) -> nn.Module:
    with torch.device("meta"):
        return timm.create_model(name, num_classes=100)


@pytest.mark.parametrize(("text", "name"), COUNTS)
def test_counts_of_the_papers(text, name):
    tuned = vitune.apply(model(name), parse(text), check=False)
    costs = tuned.costs()
    tuned.detach()
    assert costs.method_parameters == COUNTS[text, name]
    assert costs.head_parameters == 100 * (tuned.anatomy.width + 1)


def test_bitfit_counts_the_same_where_query_key_and_value_are_apart():
    transformers = pytest.importorskip("transformers")
    with torch.device("meta"):
        model = transformers.ViTForImageClassification(transformers.ViTConfig(num_labels=10))
    assert vitune.apply(model, vitune.BitFit(), check=False).costs().method_parameters == 102_912


def test_every_method_has_a_published_count():
    from vitune.methods import all_methods

    ours = {name for name, method in all_methods().items() if method.__module__.startswith("vitune.methods.")}
    assert {parse(text)[0].name for text, _ in COUNTS} == ours
