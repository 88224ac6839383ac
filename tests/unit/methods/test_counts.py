"""Trained parameters at full size, as published. The models are made on the meta device: no memory, no time."""

from __future__ import annotations

import functools

import pytest
import timm
import torch
from torch import nn

import vitune
from vitune.methods import parse

EVERY_MATRIX = "structured=attn.q+attn.k+attn.v+attn.out+mlp.in+mlp.out"
COUNTS = {
    ("full", "vit_base_patch16_224"): 85_798_656,
    ("linear", "vit_base_patch16_224"): 0,
    (
        "alast",
        "vit_base_patch16_224",
    ): 85_798_656,  # what three quarters of the blocks, drawn anew, train in turn
    ("lora,alast", "vit_base_patch16_224"): 294_912,
    ("suffix", "vit_base_patch16_224"): 6 * 7_087_872
    + 1_536,  # at most half of the blocks, and the final norm
    ("suffix(k=3,deepest=12)", "vit_base_patch16_224"): 85_798_656,
    ("velora", "vit_base_patch16_224"): 85_798_656,
    ("lora,velora", "vit_base_patch16_224"): 294_912,
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
    ("hst", "vit_base_patch16_224"): 764_840,
    ("hst(widths=64+128+256+384)", "vit_base_patch16_224"): 10_404_096,
    ("hst", "vit_small_patch16_224"): 658_856,
    ("hst", "vit_large_patch16_224"): 1_360_544,
    # Every matrix: 72 modules, and the class token.
    (f"spt({EVERY_MATRIX})", "vit_base_patch16_224"): 1_327_104 + 768,
    (f"spt(structure=adapter,{EVERY_MATRIX})", "vit_base_patch16_224"): 12 * (5 * 13_064 + 52_232) + 768,
    ("vpt(prompts=1)", "vit_base_patch16_224"): 9_216,
    ("vpt", "vit_base_patch16_224"): 92_160,
    ("vpt(prompts=200)", "vit_base_patch16_224"): 1_843_200,
    ("vpt(project=64)", "vit_base_patch16_224"): 57_600,
    ("vpt(prompts=50,mode=shallow)", "vit_base_patch16_224"): 38_400,
    ("e2vpt(masks=none)", "vit_base_patch16_224"): 138_240,
    ("e2vpt", "vit_base_patch16_224"): 138_410,
    ("e2vpt(prompts=32)", "vit_base_patch16_224"): 341_536,
    ("e2vpt(prompts=100,kv_prompts=20)", "vit_base_patch16_224"): 1_107_620,
    ("e2vpt(share_kv=false,masks=none)", "vit_base_patch16_224"): 184_320,
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
    ("bi_adaptformer", "vit_base_patch16_224"): 589_824,
    ("bi_adaptformer(bottleneck=1,bits=8)", "vit_base_patch16_224"): 18_432,
    ("bi_lora", "vit_base_patch16_224"): 1_179_648,
    ("bi_lora(rank=1)", "vit_base_patch16_224"): 36_864,
    ("bi_lora(rank=16,bits=4)", "vit_base_patch16_224"): 589_824,
    ("adaptformer(bottleneck=8,layernorm=in,scale=1.0)", "vit_base_patch16_224"): 175_200,  # V-PETL
    ("adaptformer(bottleneck=8,scale=learnable)", "vit_base_patch16_224"): 156_780,
    ("adapter", "vit_base_patch16_224"): 156_768,
    ("adapter(bottleneck=96)", "vit_base_patch16_224"): 1_779_840,
    ("adapter(placement=houlsby)", "vit_base_patch16_224"): 313_536,
    ("adapter(bottleneck=64,placement=houlsby)", "vit_base_patch16_224"): 2_379_264,
    ("dyt(bottleneck=8)", "vit_base_patch16_224"): 165_996,
    ("dyt(bottleneck=16)", "vit_base_patch16_224"): 313_548,
    ("dyt(bottleneck=8,decide_by=random)", "vit_base_patch16_224"): 156_768,
    ("dyt", "vit_base_patch16_224"): 1_198_860,
    ("dyt(bottleneck=256)", "vit_base_patch16_224"): 4_740_108,
    ("dyt(dispatch=attention)", "vit_base_patch16_224"): 1_198_860,
    ("dyt(dispatch=attention-mlp)", "vit_base_patch16_224"): 2_397_720,
    ("dyt(experts=2)", "vit_base_patch16_224"): 2_406_924,
    ("dyt(experts=4)", "vit_base_patch16_224"): 4_804_620,
    ("dyt(bottleneck=8)", "vit_large_patch16_224"): 442_584,
    ("dyt", "vit_large_patch16_224"): 3_196_440,
    ("dyt", "swin_base_patch4_window7_224"): 1_565_720,
    ("sct", "vit_base_patch16_224"): 111_744,
    ("sct(mode=mlp)", "vit_base_patch16_224"): 111_744,
    ("sct(mode=qkv)", "vit_base_patch16_224"): 223_488,
    ("sct(channels=32)", "vit_base_patch16_224"): 12_672,
    ("sct(channels=192)", "vit_base_patch16_224"): 444_672,
    ("sct", "vit_large_patch16_224"): 223_488,
    ("sct", "swin_base_patch4_window7_224"): 102_432,
}

# Where the classifier does not read the backbone's width.
HEAD_WIDTHS = {"hst": 72, "hst(widths=64+128+256+384)": 384}


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
    width = HEAD_WIDTHS.get(text, tuned.anatomy.width)
    assert costs.head_parameters == 100 * (width + 1)


def test_bitfit_counts_the_same_where_query_key_and_value_are_apart():
    transformers = pytest.importorskip("transformers")
    with torch.device("meta"):
        model = transformers.ViTForImageClassification(transformers.ViTConfig(num_labels=10))
    assert vitune.apply(model, vitune.BitFit(), check=False).costs().method_parameters == 102_912


def test_every_method_has_a_published_count():
    from vitune.methods import all_methods

    ours = {name for name, method in all_methods().items() if method.__module__.startswith("vitune.methods.")}
    assert {parse(text)[0].name for text, _ in COUNTS} == ours
