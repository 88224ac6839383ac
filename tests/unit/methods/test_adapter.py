"""Adapter: where it acts, how it starts, what it keeps for the backward pass."""

from __future__ import annotations

import pytest
import torch
from tests.contract.cases import randomise
from tests.contract.families import backbone, images
from torch.nn import functional as F

import vitune
from vitune.errors import ConfigError
from vitune.measure import saved_activation_bytes, weightless_copy


def layer_of(method: vitune.Adapter, point: str = "mlp_output"):
    tuned = vitune.apply(backbone("plain"), method, seed=1)
    return tuned.model.get_submodule(f"blocks.0.vitune.points.{point}.adapter")


def test_acts_on_the_outputs_inside_the_branches():
    tuned = randomise(
        vitune.apply(backbone("layer_scale"), vitune.Adapter(placement="houlsby", bottleneck=3))
    )
    tuned.model.eval()
    block, x = tuned.model.blocks[0], torch.randn(2, 5, 32)
    points = block.vitune.points
    h = x + block.ls1(points.attn_output.adapter(block.attn(block.norm1(x))))
    expected = h + block.ls2(points.mlp_output.adapter(block.mlp(block.norm2(h))))
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize(
    ("activation", "function"),
    [("gelu", F.gelu), ("relu", F.relu), ("quick_gelu", lambda y: y * torch.sigmoid(1.702 * y))],
)
def test_formula(activation, function):
    layer = layer_of(vitune.Adapter(bottleneck=3, activation=activation, scale=0.5, init="vpetl"))
    y = 3 * torch.randn(2, 5, 32)
    expected = y + 0.5 * layer.up(function(layer.down(y)))
    torch.testing.assert_close(layer(y), expected)


def test_dropout_acts_between_the_two_layers_in_training_only():
    layer = layer_of(vitune.Adapter(bottleneck=4, init="vpetl", dropout=0.5)).eval()
    y = torch.randn(2, 5, 32)
    assert torch.equal(layer(y), layer(y))
    layer.train()
    torch.manual_seed(0)
    found = layer(y)
    torch.manual_seed(0)
    torch.testing.assert_close(found, y + layer.up(F.dropout(F.gelu(layer.down(y)), 0.5)))


def spread(tensor: torch.Tensor) -> float:
    return tensor.std().item()


def test_starts():
    def start(init: str):
        layer = layer_of(vitune.Adapter(bottleneck=64, init=init))  # type: ignore[arg-type]
        return layer.down.weight, layer.up.weight, layer.down.bias, layer.up.bias

    for init in ("kaiming", "trunc_normal", "vpt", "vpetl"):
        assert not torch.cat(start(init)[2:]).any(), f"{init}: biases start at 0"
    down, up, *_ = start("kaiming")
    assert spread(down) == pytest.approx((1 / (3 * 32)) ** 0.5, rel=0.05)  # U(+-1/sqrt 32)
    assert down.abs().max() <= 32**-0.5
    assert not up.any()
    down, up, *_ = start("trunc_normal")
    assert spread(down) == pytest.approx(0.02, rel=0.05)
    assert not up.any()
    down, up, *_ = start("vpt")
    assert not down.any()
    assert not up.any()
    down, up, *_ = start("vpetl")
    assert (spread(down), spread(up)) == (pytest.approx(0.02, rel=0.05), pytest.approx(0.02, rel=0.05))
    down, up, bias, _ = start("noah")
    for weight in (down, up):  # xavier: U(+-sqrt(6 / (32 + 64)))
        assert spread(weight) == pytest.approx(0.25 / 3**0.5, rel=0.05)
        assert weight.abs().max() <= 0.25
    assert 0 < bias.abs().max() < 1e-5


def test_the_start_of_vpt_is_dead():
    tuned = vitune.apply(backbone("plain"), vitune.Adapter(bottleneck=4, init="vpt"))
    F.cross_entropy(tuned(images("plain")), torch.tensor([0, 1])).backward()
    moving = {
        name.split(".adapter.")[1]
        for name, p in tuned.trainable().items()
        if "adapter" in name and p.grad.any()
    }  # type: ignore[union-attr]
    assert moving == {"up.bias"}


def saved(**settings) -> int:
    tuned = vitune.apply(backbone("plain"), vitune.Adapter(**settings), check=False)
    with weightless_copy(tuned.model) as twin:
        pictures, labels = torch.zeros(2, 3, 32, 32), torch.zeros(2, dtype=torch.long)
        count = saved_activation_bytes(
            twin, lambda net: F.cross_entropy(net(pictures), labels), ignore=[labels]
        )
    return count.bytes


@pytest.mark.parametrize(("activation", "tensors"), [("relu", 1), ("gelu", 2), ("quick_gelu", 3)])
def test_what_is_kept_for_the_backward(activation, tensors):
    """Of the bottleneck, the hidden tensors that the activation's derivative needs."""
    tokens, blocks, more = 2 * 5, len(backbone("plain").blocks), 8
    kept = saved(bottleneck=4 + more, activation=activation) - saved(bottleneck=4, activation=activation)
    assert kept == 4 * blocks * tokens * more * tensors


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bottleneck": 0}, "adapter: bottleneck must be at least 1, not 0."),
        ({"placement": "x"}, "adapter: placement must be 'pfeiffer' or 'houlsby', not 'x'."),
        ({"activation": "x"}, "adapter: activation must be 'gelu', 'quick_gelu' or 'relu', not 'x'."),
        ({"scale": float("nan")}, "adapter: scale must be a finite number, not nan."),
        ({"dropout": 1.0}, "adapter: dropout must be in [0, 1), not 1.0."),
        (
            {"init": "x"},
            "adapter: init must be 'kaiming', 'trunc_normal', 'vpt', 'vpetl' or 'noah', not 'x'.",
        ),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ConfigError) as caught:
        vitune.Adapter(**settings)
    assert str(caught.value) == message
