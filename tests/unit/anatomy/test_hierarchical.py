"""Hierarchical backbones and those that are no transformers: their roles, and what no family describes."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.models.convnext import ConvNeXt
from timm.models.swin_transformer import SwinTransformer

import vitune
import vitune.backbones as backbones  # registers AS-MLP
from vitune.anatomy import Anatomy, anatomy, short_name, tree
from vitune.errors import NothingMatchedError, UnsupportedBackboneError

assert backbones.BUILT_IN


def described(name: str, **arguments) -> Anatomy:
    with torch.device("meta"):
        return anatomy(timm.create_model(name, num_classes=10, **arguments))


# name: family, blocks, widths of the blocks by stage, grid, head
KNOWN = {
    "swin_tiny_patch4_window7_224": ("timm-swin", [2, 2, 6, 2], [96, 192, 384, 768], (56, 56), "head.fc"),
    "swin_s3_tiny_224": ("timm-swin", [2, 2, 6, 2], [96, 192, 384, 768], (56, 56), "head.fc"),
    "swinv2_tiny_window8_256": ("timm-swin", [2, 2, 6, 2], [96, 192, 384, 768], (64, 64), "head.fc"),
    "convnext_atto": ("timm-convnext", [2, 2, 6, 2], [40, 80, 160, 320], (56, 56), "head.fc"),
    "convnextv2_atto": ("timm-convnext", [2, 2, 6, 2], [40, 80, 160, 320], (56, 56), "head.fc"),
    "convnext_tiny_hnf": ("timm-convnext", [3, 3, 9, 3], [96, 192, 384, 768], (56, 56), "head.fc"),
    "convnext_nano_ols": ("timm-convnext", [2, 2, 8, 2], [80, 160, 320, 640], (56, 56), "head.fc"),
    "mixer_b16_224": ("timm-mixer", [12], [768], (14, 14), "head"),
    "gmixer_24_224": ("timm-mixer", [24], [384], (14, 14), "head"),
    "resmlp_12_224": ("timm-mixer", [12], [384], (14, 14), "head"),
    "as_mlp_small": ("as-mlp", [2, 2, 18, 2], [96, 192, 384, 768], (56, 56), "head"),
    "resnet50": ("timm-cnn", [3, 4, 6, 3], [256, 512, 1024, 2048], (7, 7), "fc"),
    "resnet50d": ("timm-cnn", [3, 4, 6, 3], [256, 512, 1024, 2048], (7, 7), "fc"),
    "resnext50_32x4d": ("timm-cnn", [3, 4, 6, 3], [256, 512, 1024, 2048], (7, 7), "fc"),
    "seresnet50": ("timm-cnn", [3, 4, 6, 3], [256, 512, 1024, 2048], (7, 7), "fc"),
    "regnety_002": ("timm-cnn", [1, 1, 4, 7], [24, 56, 152, 368], (7, 7), "head.fc"),
    "efficientnet_b0": (
        "timm-cnn",
        [1, 2, 2, 3, 3, 4, 1],
        [16, 24, 40, 80, 112, 192, 320],
        (7, 7),
        "classifier",
    ),
    "mobilenetv3_large_100": (
        "timm-cnn",
        [1, 2, 3, 4, 2, 3, 1],
        [16, 24, 40, 80, 112, 160, 960],
        (7, 7),
        "classifier",
    ),
}


@pytest.mark.parametrize("name", KNOWN)
def test_blocks_are_numbered_through_all_stages(name):
    found = described(name)
    family, depths, widths, grid, head = KNOWN[name]
    assert found.family == family
    assert [block.index for block in found.blocks] == list(range(sum(depths)))
    assert [sum(b.stage == s for b in found.blocks) for s in range(len(depths))] == depths
    assert [next(b.width for b in found.blocks if b.stage == s) for s in range(len(depths))] == widths
    assert found.grid == grid
    assert found.head == (head,)
    assert found.num_prefix_tokens == 0
    assert found.model.get_submodule(head).in_features == found.width
    assert found.path_of("head.weight") == f"{head}.weight"


@pytest.mark.parametrize("name", KNOWN)
def test_every_layer_outside_the_head_has_one_role(name):
    found = described(name)
    paths = [operator.path for operator in found.operators]
    assert len(set(paths)) == len(paths)
    assert len({operator.role for operator in found.operators}) == len(paths)
    model = found.model
    layers = [
        n
        for n, m in model.named_modules()
        if isinstance(m, (torch.nn.Linear, torch.nn.Conv2d, torch.nn.BatchNorm2d, torch.nn.LayerNorm))
    ]
    assert {n for n in layers if n not in found.head and "cpb_mlp" not in n} <= set(paths)
    for path in paths:
        assert found.path_of(found.role_of(path)) == path


def shorts(found: Anatomy, block: int) -> list[str]:
    start = f"blocks.{block}."
    return [short_name(o.role) for o in found.operators if o.role.startswith(start)]


def test_roles_of_the_blocks():
    swin = ["norm1", "attn.qkv", "attn.out", "norm2", "mlp.in", "mlp.out"]
    assert shorts(described("swin_tiny_patch4_window7_224"), 3) == swin
    post_norm = ["attn.qkv", "attn.out", "norm1", "mlp.in", "mlp.out", "norm2"]
    assert shorts(described("swinv2_tiny_window8_256"), 3) == post_norm
    assert shorts(described("convnext_atto"), 0) == ["dwconv", "norm", "mlp.in", "mlp.out"]
    assert shorts(described("convnextv2_atto"), 0) == ["dwconv", "norm", "mlp.in", "mlp.norm", "mlp.out"]
    mixer = ["norm1", "tokens.in", "tokens.out", "norm2", "mlp.in", "mlp.out"]
    assert shorts(described("mixer_b16_224"), 0) == mixer
    assert shorts(described("resmlp_12_224"), 0) == ["tokens.mix", "mlp.in", "mlp.out"]
    resnet = ["conv1", "norm1", "conv2", "norm2", "shortcut.conv1", "shortcut.norm1"]
    assert shorts(described("resnet18"), 2) == resnet
    excited = ["conv1", "norm1", "se.conv1", "se.conv2", "conv2", "norm2"]
    assert shorts(described("efficientnet_b0"), 0) == excited


def test_layers_between_stages_lie_in_front_of_the_stage_they_are_named_by():
    for name, kinds in [
        ("swin_tiny_patch4_window7_224", ["norm", "reduction"]),
        ("swinv2_tiny_window8_256", ["reduction", "norm"]),
        ("convnext_atto", ["norm", "conv"]),
        ("as_mlp_tiny", ["norm", "reduction"]),
    ]:
        found = described(name)
        between = [o.role for o in found.operators if o.role.startswith("downsample.")]
        assert between == [f"downsample.{stage}.{kind}" for stage in (1, 2, 3) for kind in kinds]
        roles = [o.role for o in found.operators]
        first = next(b.index for b in found.blocks if b.stage == 1)
        assert roles.index("downsample.1.norm") < min(
            i for i, role in enumerate(roles) if role.startswith(f"blocks.{first}.")
        )


def test_channels_come_first_where_they_do():
    layouts = {o.role: o.layout for o in described("convnext_tiny").operators}
    assert layouts["blocks.0.dwconv"] == layouts["norm"] == layouts["downsample.1.conv"] == "NCHW"
    assert layouts["blocks.0.norm"] == layouts["blocks.0.mlp.in"] == "NLC"
    convolutional = {
        o.role: o.layout for o in described("convnext_atto").operators
    }  # MLP of 1x1 convolutions
    assert set(convolutional.values()) == {"NCHW"}
    assert {o.layout for o in described("as_mlp_tiny").operators} == {"NCHW"}


def test_swin_v2_tells_where_the_biases_of_its_fused_layer_are():
    operator = next(
        o for o in described("swinv2_tiny_window8_256").operators if o.role == "blocks.0.attn.qkv"
    )
    assert operator.biases == ("layers.0.blocks.0.attn.q_bias", "layers.0.blocks.0.attn.v_bias")
    plain = next(
        o for o in described("swin_tiny_patch4_window7_224").operators if o.role == "blocks.0.attn.qkv"
    )
    assert plain.biases == ()


def test_the_tree_keeps_the_order_of_the_forward_pass():
    drawn = tree(described("swin_tiny_patch4_window7_224")).splitlines()
    places = [line.split()[0] for line in drawn if line.startswith("  ") and not line.startswith("   ")]
    assert places == [
        "patch_embed",
        "patch_embed.norm",
        "blocks.0",
        "downsample.1.norm",
        "downsample.1.reduction",
        "blocks.2",
        "downsample.2.norm",
        "downsample.2.reduction",
        "blocks.4",
        "downsample.3.norm",
        "downsample.3.reduction",
        "blocks.10",
        "norm",
        "head",
    ]
    assert "  blocks.0 .. 1  (3 heads)" in drawn
    assert not any("heads" in line for line in tree(described("convnext_atto")).splitlines())


def test_blocks_that_mix_positions_inside_their_mlp_are_refused():
    with pytest.raises(
        UnsupportedBackboneError, match="block 0 is a SpatialGatingBlock; looked for timm's MixerBlock"
    ):
        described("gmlp_ti16_224")


def test_networks_without_a_family_are_refused():
    with pytest.raises(UnsupportedBackboneError, match="no known backbone family matches NormFreeNet"):
        described("nf_resnet50")


def test_a_role_that_a_family_does_not_have_is_refused():
    model = ConvNeXt(depths=(1, 1, 1, 1), dims=(8, 8, 8, 8), num_classes=3)
    with pytest.raises(NothingMatchedError, match=r"no role 'attn\.q' in this timm-convnext backbone"):
        vitune.apply(model, vitune.LoRA(roles=("attn.q",)))
    with pytest.raises(
        NothingMatchedError, match=r"timm-convnext backbone has no attention, .*roles=all-conv"
    ):
        vitune.apply(model, vitune.LoRA())


def test_a_headless_swin_has_no_head():
    model = SwinTransformer(
        img_size=32, embed_dim=8, depths=(1,), num_heads=(1,), window_size=4, num_classes=0
    )
    assert anatomy(model).head == ()
