"""Blocks of hierarchical backbones and of networks without attention: every point is where it says."""

from __future__ import annotations

import pytest
import torch
from tests.contract.families import backbone, images
from torch import Tensor, nn

import vitune
from vitune.anatomy import anatomy, logits
from vitune.errors import SurgeryError, UnsupportedBackboneError
from vitune.methods import parse
from vitune.surgery import POINTS, AttachAtPoint, carry_out, points_for, undo

MLP_ALONE = ("mlp.input", "mlp.output", "mlp.beside", "output")
FAMILIES = {"swin": POINTS, "swinv2": POINTS, "convnext": MLP_ALONE, "mixer": POINTS, "as_mlp": POINTS}
FAMILIES["hf_convnext"] = MLP_ALONE


class Watching(nn.Module):
    """Hands on what it gets, or nothing where its result is added, and remembers it."""

    def __init__(self, beside: bool) -> None:
        super().__init__()
        self.beside, self.seen = beside, []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        return torch.zeros_like(x) if self.beside else x


@pytest.mark.parametrize("family", FAMILIES)
def test_every_point_is_passed_once_with_the_channels_last(family):
    model = backbone(family).eval()
    found, batch = anatomy(model), images(family)
    with torch.no_grad():
        expected = logits(model, batch)
    watching = {
        (block.index, point): Watching(point.endswith("beside"))
        for block in found.blocks
        for point in FAMILIES[family]
    }
    steps = [
        AttachAtPoint(f"blocks.{i}.{point}", found.blocks[i].path, point, "watch", lambda layer=layer: layer)
        for (i, point), layer in watching.items()
    ]
    carry_out(model, steps)
    with torch.no_grad():
        assert torch.equal(logits(model, batch), expected)
    for (i, point), layer in watching.items():
        assert len(layer.seen) == 1, (i, point)
        assert layer.seen[0].shape[-1] == found.blocks[i].width, (i, point)
        assert layer.seen[0].ndim == (3 if family == "mixer" else 4)
    for block in found.blocks:
        seen = {point: watching[block.index, point].seen[0] for point in FAMILIES[family]}
        if "middle" in seen:
            assert torch.equal(
                seen["middle"], seen["mlp.beside"]
            )  # the MLP reads the stream behind the middle
    undo(model, steps)
    assert not any("vitune" in name for name, _ in model.named_modules())


@pytest.mark.parametrize("family", FAMILIES)
def test_what_lies_beside_is_added_to_the_stream(family):
    model = backbone(family).eval()
    found, batch = anatomy(model), images(family)
    last = found.blocks[-1]
    before: list[Tensor] = []
    hook = model.get_submodule(last.path).register_forward_hook(lambda m, i, o: before.append(o))
    with torch.no_grad():
        logits(model, batch)
        step = AttachAtPoint("beside", last.path, "mlp.beside", "ones", Ones)
        carry_out(model, [step])
        logits(model, batch)
    hook.remove()
    torch.testing.assert_close(before[1], before[0] + 1)


class Ones(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.ones_like(x)


def test_a_point_that_a_convnext_block_does_not_have_is_refused():
    model = backbone("convnext")
    step = AttachAtPoint("blocks.0.attn.output", "stages.0.blocks.0", "attn.output", "ones", Ones)
    with pytest.raises(
        SurgeryError, match=r"no point 'attn\.output'; known: mlp\.input, mlp\.output, mlp\.beside"
    ):
        carry_out(model, [step])


def test_convolutional_blocks_have_no_points():
    model = backbone("resnet")
    with pytest.raises(
        UnsupportedBackboneError, match=r"no forward pass with points is known for .*BasicBlock"
    ):
        points_for(model.layer1[0])
    with pytest.raises(UnsupportedBackboneError, match="BasicBlock"):
        vitune.apply(model, parse("adaptformer"))
