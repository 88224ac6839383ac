"""Points around a branch or a block: what stands there decides what the part computes, and for which tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.contract.families import backbone, images
from torch import Tensor, nn

from vitune.anatomy import anatomy, logits
from vitune.errors import SurgeryError
from vitune.surgery import AttachAtPoint, carry_out, points_for
from vitune.surgery.points import AROUND


class Through(nn.Module):
    """Hands the stream to the part, and remembers that it was asked."""

    calls = 0

    def forward(self, stream: Tensor, part: Any) -> Tensor:
        self.calls += 1
        return part(stream)


class Hiding(nn.Module):
    """Lets the part attend to the first tokens alone."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def forward(self, stream: Tensor, part: Any) -> Tensor:
        return part(stream, keys=(torch.arange(stream.shape[1]) < self.number).expand(len(stream), -1))


class Scaled(nn.Module):
    """Multiplies what the part gives."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, stream: Tensor, part: Any) -> Tensor:
        return self.factor * part(stream)


def put(model: nn.Module, point: str, *layers: nn.Module, block: int = 0) -> nn.Module:
    path = anatomy(model).blocks[block].path
    carry_out(
        model,
        [AttachAtPoint(point, path, point, f"l{i}", (lambda one=one: one)) for i, one in enumerate(layers)],
    )
    return model.eval()


WITH_MLP = ["plain", "layer_scale", "hf", "swin", "swinv2", "mixer", "eva02", "beit", "hf_beit", "hf_swin"]


@pytest.mark.parametrize("family", WITH_MLP)
def test_a_layer_that_hands_on_changes_nothing(family):
    plain = backbone(family).eval()
    known = points_for(plain.get_submodule(anatomy(plain).blocks[0].path)).points
    around = [point for point in AROUND if point.endswith("around") and point in known]
    assert "mlp.around" in around
    for point in around:
        layer = Through()
        model = put(backbone(family), point, layer)
        with torch.no_grad():
            assert torch.equal(logits(model, images(family)), logits(plain, images(family)))
        assert layer.calls == 1


def test_the_latest_layer_is_the_outermost():
    model = put(backbone("plain"), "mlp.around", Scaled(2.0), Scaled(3.0))
    block = model.blocks[0]
    x = torch.randn(1, 5, 32)
    with torch.no_grad():
        h = x + block.attn(block.norm1(x))
        torch.testing.assert_close(block(x), h + 6 * block.mlp(block.norm2(h)))


def test_a_layer_beside_the_block_reads_its_input():
    model = put(backbone("plain"), "beside", nn.Linear(32, 32))
    layer = model.blocks[0].vitune.points.beside.l0
    x = torch.randn(1, 5, 32)
    with torch.no_grad():
        expected = backbone("plain").eval().blocks[0](x) + layer(x)
        torch.testing.assert_close(model.blocks[0](x), expected)


@pytest.mark.parametrize("point", ["attn.around", "around"])
@pytest.mark.parametrize("family", ["plain", "hf", "eager"])
def test_hidden_keys_are_not_attended_to(family, point):
    model = put(backbone("hf" if family == "eager" else family), point, Hiding(3))
    if family == "eager":
        model.set_attn_implementation("eager")
    block = model.get_submodule(anatomy(model).blocks[0].path)
    x = torch.randn(2, 5, 32)
    other = x.clone()
    other[:, 3:] += 1
    with torch.no_grad():
        torch.testing.assert_close(block(other)[:, :3], block(x)[:, :3])
        seen = x.clone()
        seen[:, 2] += torch.randn(32)
        assert not torch.allclose(block(seen)[:, 0], block(x)[:, 0], atol=1e-4)


def test_a_block_cannot_hide_keys_and_take_a_mask():
    model = put(backbone("plain"), "attn.around", Hiding(3))
    with pytest.raises(
        SurgeryError, match="hides tokens, so the block cannot take an attention mask as well"
    ):
        model.blocks[0](torch.randn(1, 5, 32), attn_mask=torch.zeros(1, 1, 5, 5))


def test_a_block_that_has_no_such_point_says_which_it_has():
    with pytest.raises(
        SurgeryError, match=r"no point 'attn.around'; known: attn.input, .*mlp.around.* \(of a SwinTrans"
    ):
        put(backbone("swin"), "attn.around", Through())
