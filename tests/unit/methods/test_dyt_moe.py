"""The mixture of adapters of DyT."""

from __future__ import annotations

import torch
from torch.nn import functional as F

import vitune
from vitune.methods.dyt.moe import MixtureOfBottlenecks


def mixture(experts: int, routing: str = "softmax", **settings) -> MixtureOfBottlenecks:
    torch.manual_seed(0)
    layer = MixtureOfBottlenecks(
        8, vitune.AdaptFormer(bottleneck=3, dropout=0.0, **settings), experts, routing
    )
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
    return layer


def test_a_mixture_of_one_and_of_equals_is_the_plain_adapter():
    x = torch.randn(2, 5, 8)
    one, three = mixture(1), mixture(3)
    plain = F.relu(x @ one.down_weight[0].T + one.down_bias[0]) @ one.up_weight[0].T + one.up_bias[0]
    torch.testing.assert_close(one(x), 0.1 * plain)
    with torch.no_grad():
        for name, parameter in three.named_parameters():
            if name != "router.weight":
                parameter.copy_(one.get_parameter(name).expand_as(parameter))
    torch.testing.assert_close(three(x), one(x))


def test_a_mixture_mixes_weights_for_every_image_and_not_outputs():
    x = torch.randn(2, 5, 8)
    layer = mixture(2, "sigmoid")
    shares = (x.mean(1) @ layer.router.weight.T).sigmoid()
    for image, share in zip(x, shares, strict=True):
        down = torch.einsum("e,ehd->hd", share, layer.down_weight)
        up = torch.einsum("e,edh->dh", share, layer.up_weight)
        hidden = F.relu(image @ down.T + share @ layer.down_bias)
        expected = 0.1 * (hidden @ up.T + share @ layer.up_bias)
        torch.testing.assert_close(layer(x)[x.tolist().index(image.tolist())], expected, rtol=1e-4, atol=1e-5)
