from __future__ import annotations

import pytest
import torch
from tests.contract.families import backbone, images
from torch import Tensor, nn

from vitune.anatomy import anatomy, logits
from vitune.surgery import POINTS, AttachAtPoint, carry_out


class Add(nn.Module):
    """Adds a constant, and remembers what it saw."""

    def __init__(self, value: float = 0.0) -> None:
        super().__init__()
        self.value = value
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        return x + self.value


class Zero(Add):
    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        return torch.zeros_like(x)


@pytest.mark.parametrize("family", ["plain", "distilled", "layer_scale", "registers", "glu", "hf"])
def test_points_that_change_nothing_leave_the_very_same_block(family):
    plain, model = backbone(family).eval(), backbone(family).eval()
    found = anatomy(model)
    made = {point: Zero() if point.endswith("beside") else Add() for point in POINTS}
    steps = [
        AttachAtPoint(point, found.blocks[0].path, point, "test", (lambda layer=layer: layer))
        for point, layer in made.items()
    ]
    carry_out(model, steps)
    with torch.no_grad():
        assert torch.equal(logits(model, images(family)), logits(plain, images(family)))
    assert {point: len(layer.seen) for point, layer in made.items()} == dict.fromkeys(POINTS, 1)


def test_points_see_what_they_are_documented_to_see():
    model = backbone("layer_scale").eval()
    block = model.blocks[0]
    made = {point: Zero() if point.endswith("beside") else Add() for point in POINTS}
    carry_out(
        model,
        [AttachAtPoint(p, "blocks.0", p, "test", (lambda layer=layer: layer)) for p, layer in made.items()],
    )
    x = torch.randn(2, 5, 32)
    with torch.no_grad():
        y = block(x)
        attended = block.attn(block.norm1(x))
        h = x + block.ls1(attended)
        mixed = block.mlp(block.norm2(h))
    expected = {
        "attn.input": block.norm1(x),
        "attn.output": attended,
        "attn.beside": x,
        "middle": h,
        "mlp.input": block.norm2(h),
        "mlp.output": mixed,
        "mlp.beside": h,
        "output": h + block.ls2(mixed),
    }
    for point, tensor in expected.items():
        torch.testing.assert_close(made[point].seen[0], tensor, msg=point)
    torch.testing.assert_close(y, expected["output"])


@pytest.mark.parametrize(("point", "moves"), [("mlp.beside", 1.0), ("output", 1.0), ("mlp.output", None)])
def test_beside_is_added_and_the_others_replace(point, moves):
    model = backbone("layer_scale").eval()
    x = torch.randn(2, 5, 32)
    with torch.no_grad():
        before = model.blocks[0](x)
        layer = One() if point.endswith("beside") else Add(1.0)
        carry_out(model, [AttachAtPoint(point, "blocks.0", point, "test", lambda: layer)])
        moved = model.blocks[0](x) - before
    wanted = torch.ones_like(moved) if moves else model.blocks[0].ls2(torch.ones_like(moved))
    torch.testing.assert_close(moved, wanted, atol=1e-5, rtol=1e-5)


class One(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.ones_like(x)
