"""LoRA on convolutions: its arithmetic in every geometry, on real architectures, its counts and what it refuses."""

from __future__ import annotations

import re

import pytest
import timm
import torch
from tests.contract.cases import gradients, randomise, tune
from tests.contract.families import images
from torch import nn
from torch.nn import functional as F

import vitune
from vitune.adapters import merge
from vitune.errors import NothingMatchedError, UnsupportedBackboneError
from vitune.methods import parse
from vitune.methods.lora.convolutions import ConvLowRank, ConvLowRankEdit
from vitune.surgery import attach, detach, layer_of, runs_its_kernel

GEOMETRIES = {
    "1x1": {"kernel_size": 1},
    "stride and padding": {"kernel_size": 3, "stride": 2, "padding": 1},
    "oblong": {"kernel_size": (3, 1), "stride": (1, 2), "padding": (1, 0)},
    "dilation": {"kernel_size": 3, "dilation": 2, "padding": 2},
    "padding by reflection": {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
    "padding by name": {"kernel_size": 3, "padding": "same"},
    "groups": {"kernel_size": 3, "groups": 2, "padding": 1},
    "depthwise": {"kernel_size": 5, "groups": 4, "padding": 2},
    "no bias": {"kernel_size": 3, "bias": False},
}


def edited(convolution: nn.Conv2d, **settings) -> nn.Conv2d:
    config = vitune.LoRA(rank=2, roles=("conv1",), **settings)
    layer = ConvLowRank(tuple(convolution.weight.shape), convolution.groups, "conv1", config)
    nn.init.normal_(layer.up())
    attach(convolution, ConvLowRankEdit, layer.train(convolution.training))
    return convolution


@pytest.mark.parametrize("name", GEOMETRIES)
def test_is_an_update_of_the_kernel(name):
    torch.manual_seed(0)
    convolution = nn.Conv2d(4, 8, **GEOMETRIES[name])
    x = torch.randn(2, 4, 9, 7)
    edited(convolution, alpha=6.0)
    layer = layer_of(convolution, ConvLowRankEdit)
    assert isinstance(layer, ConvLowRank)
    kernel = convolution.weight + 3 * (layer.up() @ layer.down()).view_as(convolution.weight)
    expected = convolution._conv_forward(x, kernel, convolution.bias)
    plain = convolution._conv_forward(x, convolution.weight, convolution.bias)
    torch.testing.assert_close(convolution(x), expected, rtol=1e-5, atol=1e-5)
    assert (expected - plain).abs().max() > 0.1
    with torch.no_grad():
        ConvLowRankEdit.fold(convolution, layer)
    detach(convolution, ConvLowRankEdit)
    torch.testing.assert_close(convolution(x), expected, rtol=1e-5, atol=1e-5)


def test_padding_that_depends_on_the_image():
    from timm.layers.conv2d_same import Conv2dSame

    convolution = edited(Conv2dSame(4, 8, 3, stride=2))
    layer = layer_of(convolution, ConvLowRankEdit)
    assert isinstance(layer, ConvLowRank)
    for size in (9, 8):
        x = torch.randn(1, 4, size, size)
        padded = F.pad(x, (0, 1, 0, 1) if size == 8 else (1, 1, 1, 1))
        kernel = convolution.weight + layer.delta()
        expected = F.conv2d(padded, kernel, convolution.bias, stride=2)
        torch.testing.assert_close(convolution(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("where", ["latent", "input"])
def test_dropout_acts_in_training_alone(where):
    convolution, x = edited(nn.Conv2d(4, 8, 3), dropout=0.5, dropout_at=where), torch.randn(2, 4, 6, 6)
    assert not torch.equal(convolution(x), convolution(x))
    convolution.eval()
    assert torch.equal(convolution(x), convolution(x))


# Trained numbers of rank 8 by hand: r (C_out + C_in / groups * h * w) per convolution of the blocks.
COUNTS = {
    # Eight basic blocks: stage widths 64, 128, 256, 512; the first of stages 2 to 4 has a 1x1 shortcut.
    ("resnet18", "all-conv"): 8
    * (4 * (64 + 9 * 64) + sum((c + 9 * c // 2) + 3 * (c + 9 * c) + (c + c // 2) for c in (128, 256, 512))),
    # Depthwise 7x7 kernels: depths 3, 3, 9, 3 of widths 96 to 768.
    ("convnext_tiny", "dwconv"): 8 * (3 * (96 + 49) + 3 * (192 + 49) + 9 * (384 + 49) + 3 * (768 + 49)),
    ("vit_base_patch16_224", "patch_embed"): 8 * (768 + 3 * 16 * 16),
}


@pytest.mark.parametrize(("name", "roles"), COUNTS)
def test_counts(name, roles):
    with torch.device("meta"):
        model = timm.create_model(name)
    tuned = vitune.apply(model, vitune.LoRA(roles=(roles,)), check=False)
    assert tuned.costs().method_parameters == COUNTS[name, roles]


# Grouped and depthwise kernels, squeeze and excitation, TensorFlow's padding, convolutions in place of linear layers.
ARCHITECTURES = {
    "resnext50_32x4d": {
        "layers": [1, 1, 1, 1],
        "channels": [8, 8, 16, 16],
        "cardinality": 4,
        "base_width": 32,
    },
    "res2net50_14w_8s": {"layers": [1, 1, 1, 1]},
    "resnest14d": {},
    "skresnet18": {"layers": [1, 1, 1, 1]},
    "regnety_002": {},
    "hardcorenas_a": {},
    "tf_efficientnet_lite0": {},
    "mobilenetv3_small_050": {},
    "convnext_atto": {"dims": [8, 8, 16, 16], "depths": [1, 1, 1, 1]},
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_starts_trains_and_merges_on_real_architectures(name):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=3, **ARCHITECTURES[name]).eval()
    batch = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = model(batch)
    tuned = vitune.apply(model, parse("lora(rank=2,roles=all-conv)"))  # the gate passes
    assert tuned.costs().method_parameters > 0
    with torch.no_grad():
        assert torch.equal(tuned(batch), expected)
        randomise(tuned)
        scores = tuned(batch)
        assert not torch.allclose(scores, expected, atol=1e-3)
        torch.testing.assert_close(
            merge(tuned)(batch), scores, rtol=1e-4, atol=1e-4 * scores.abs().max().item()
        )


def test_exported_with_a_dynamic_batch():
    tuned = randomise(tune("lora(rank=2,roles=all-conv)", "convnext"))
    tuned.model.eval()
    dynamic = ({0: torch.export.Dim("batch", min=1, max=8)},)
    program = torch.export.export(tuned.model, (images("convnext"),), dynamic_shapes=dynamic)
    other = images("convnext", batch=3)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(other), tuned(other), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_compiled_as_one_graph():
    torch._dynamo.reset()
    tuned = randomise(tune("lora(rank=2,roles=all-conv)", "convnext"))
    tuned.model.eval()
    batch = images("convnext")
    wanted = gradients(tuned, batch)
    tuned.model.compile(fullgraph=True, backend="aot_eager")
    for name, gradient in gradients(tuned, batch).items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-4, atol=1e-5, msg=name)
    torch._dynamo.reset()


def test_backbones_without_attention_say_which_layers_there_are():
    model = timm.create_model("resnet10t", num_classes=3)
    before = list(model.state_dict())
    with pytest.raises(
        NothingMatchedError,
        match=r"this timm-cnn backbone has no attention, .*; name layers: roles=all-conv\.$",
    ):
        vitune.apply(model, vitune.LoRA())
    with pytest.raises(NothingMatchedError, match=r"name layers: roles=all-linear\.$"):
        vitune.apply(timm.create_model("mixer_s32_224"), vitune.LoRA())
    assert list(model.state_dict()) == before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"roles": ("dwconv",), "dropout": 0.1},
            "lora: 'blocks.0.dwconv' has 8 groups, where the update is made as a kernel and has no latent to drop; "
            "set dropout_at=input",
        ),
        (
            {"roles": ("patch_embed",), "share_down": True},
            "lora: share_down needs several roles on one fused layer, and 'patch_embed' is alone there",
        ),
    ],
)
def test_settings_that_a_convolution_does_not_take(settings, message):
    model = timm.create_model("convnext_atto", dims=[8, 8, 8, 8], depths=[1, 1, 1, 1])
    with pytest.raises(UnsupportedBackboneError, match=re.escape(message)):
        vitune.apply(model, vitune.LoRA(**settings))


def test_a_convolution_that_makes_its_kernel_anew_is_refused():
    from timm.layers.std_conv import StdConv2d

    model = timm.create_model("resnet10t", num_classes=3, layers=[1, 1, 1, 1], channels=[8, 8, 8, 8])
    model.get_submodule("layer1.0").conv1 = StdConv2d(64, 8, 3, padding=1)
    assert not runs_its_kernel(model.get_submodule("layer1.0.conv1"))
    with pytest.raises(
        UnsupportedBackboneError, match=r"'blocks\.0\.conv1' is a StdConv2d, which makes its kernel anew"
    ):
        vitune.apply(model, vitune.LoRA(roles=("all-conv",)))


def test_what_acts_on_linear_updates_leaves_convolutions_alone():
    with pytest.raises(UnsupportedBackboneError, match="velora: found no input to compress beside lora"):
        tune("lora(rank=2,roles=all-conv),velora", "resnet")
