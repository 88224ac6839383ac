from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from tests.contract.families import backbone, images
from torch import Tensor, nn

from vitune.anatomy import anatomy, logits
from vitune.errors import SurgeryError
from vitune.surgery import POINTS, AttachAtPoint, carry_out, points_for, undo


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


TOKENS = ["plain", "distilled", "layer_scale", "registers", "glu", "hf", "eva02", "dinov3", "beit"]
TOKENS += ["hf_deit", "hf_dinov2", "hf_dinov3", "hf_beit", "hf_clip", "hf_siglip", "hf_swin", "hf_timm"]


@pytest.mark.parametrize("family", TOKENS)
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


@pytest.mark.parametrize("post_norm", ["vit_base_patch16_rpn_224", "eva02_enormous_patch14_clip_224"])
def test_points_of_post_norm_blocks_lie_in_front_of_the_norms(post_norm):
    small = {"img_size": 28, "patch_size": 14, "embed_dim": 32, "depth": 1, "num_heads": 2}
    block: Any = timm.create_model(post_norm, **small).eval().blocks[0]  # type: ignore[union-attr, operator]
    made = {point: Zero() if point.endswith("beside") else Add() for point in POINTS}
    x = torch.randn(2, 5, 32)
    with torch.no_grad():
        plain = block(x)
        for norm in (block.norm1, block.norm2):
            norm.weight.add_(1.0)  # timm starts some of them near zero
        attended = block.attn(x)
        h = x + block.norm1(attended)
        steps = [AttachAtPoint(p, "", p, "test", (lambda layer=layer: layer)) for p, layer in made.items()]
        carry_out(block, steps)
        y = block(x)
    assert not torch.equal(y, plain)
    expected = {
        "attn.input": x,
        "attn.output": attended,
        "middle": h,
        "mlp.input": h,
        "mlp.output": block.mlp(h),
    }
    for point, tensor in expected.items():
        torch.testing.assert_close(made[point].seen[0], tensor, msg=point)
    torch.testing.assert_close(y, h + block.norm2(block.mlp(h)))


@pytest.mark.parametrize("name", ["vit_base_patch16_xp_224", "vit_small_patch16_18x2_224"])
def test_parallel_blocks_have_the_points_on_the_residual_stream(name):
    small = {"img_size": 32, "patch_size": 16, "embed_dim": 32, "depth": 1, "num_heads": 2}
    block: Any = timm.create_model(name, **small).eval().blocks[0]  # type: ignore[union-attr, operator]
    known = points_for(block).points
    x = torch.randn(2, 5, 32)
    with torch.no_grad():
        plain = block(x)
        made = {point: Zero() if point.endswith("beside") else Add() for point in known}
        steps = [AttachAtPoint(p, "", p, "test", (lambda layer=layer: layer)) for p, layer in made.items()]
        carry_out(block, steps)
        assert torch.equal(block(x), plain)
        undo(block, steps)
        one = AttachAtPoint("mlp.beside", "", "mlp.beside", "test", One)
        carry_out(block, [one])
        torch.testing.assert_close(block(x), plain + 1.0)
    with pytest.raises(SurgeryError, match=rf"attn: no point 'attn\.input'; known: {', '.join(known)} "):
        carry_out(block, [AttachAtPoint("attn", "", "attn.input", "test", One)])
