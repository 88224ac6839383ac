"""AS-MLP: what the shift does, the published sizes, and what training asks of a timm model."""

from __future__ import annotations

import pytest
import timm
import torch

from vitune.backbones import create
from vitune.backbones.as_mlp import AsMlp, PatchMerging, shift

TINY = {"img_size": 32, "embed_dim": 12, "depths": (1, 2), "num_classes": 3}


@pytest.mark.parametrize(("axis", "size"), [(2, 5), (3, 5), (2, 3), (3, 7)])
def test_groups_of_channels_move_along_an_axis(axis, size):
    x = torch.randn(2, 2 * size - 1, 6, 7, generator=torch.Generator().manual_seed(0))
    moved = shift(x, size, axis)
    assert moved.shape == x.shape
    length = x.shape[axis]
    for channel in range(x.shape[1]):
        offset = channel // 2 - size // 2  # groups of two channels, the last of one
        for position in range(length):
            here = moved[:, channel].select(axis - 1, position)
            source = position - offset
            if 0 <= source < length:
                assert torch.equal(here, x[:, channel].select(axis - 1, source))
            else:
                assert not here.any()


def test_more_groups_than_channels_allow():
    x = torch.randn(1, 6, 4, 4)
    assert shift(x, 5, 2).shape == x.shape  # three groups of two, which move by -2, -1 and 0
    assert torch.equal(shift(x, 5, 2)[:, 4:], x[:, 4:])


def test_patch_merging_takes_neighbours_row_offset_first():
    merging = PatchMerging(1)
    merging.norm = torch.nn.Identity()
    merging.reduction = torch.nn.Identity()
    x = torch.arange(16.0).view(1, 1, 4, 4)
    assert merging(x)[0, :, 0, 0].tolist() == [0.0, 4.0, 1.0, 5.0]
    assert merging(x[:, :, :3, :3]).shape == (1, 4, 2, 2)


# Millions of parameters in the paper's table 1, at 1000 classes.
@pytest.mark.parametrize(
    ("name", "millions"), [("as_mlp_tiny", 28), ("as_mlp_small", 50), ("as_mlp_base", 88)]
)
def test_sizes_of_the_paper(name, millions):
    with torch.device("meta"):
        model = timm.create_model(name)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6) == millions


def test_checkpointing_and_another_classifier():
    torch.manual_seed(0)
    model = AsMlp(**TINY)
    x = torch.randn(2, 3, 32, 32)
    expected = model(x)
    model.set_grad_checkpointing()
    torch.testing.assert_close(model(x), expected)
    assert model.get_classifier() is model.head
    model.reset_classifier(5)
    assert model(x).shape == (2, 5)
    model.reset_classifier(0)
    assert model(x).shape == (2, 24)


def test_it_is_made_by_name():
    model = create("as_mlp_tiny", num_classes=3, pretrained=False, img_size=32, embed_dim=12, depths=[1, 1])
    assert isinstance(model, AsMlp)
    assert model.pretrained_cfg["input_size"] == (3, 224, 224)  # type: ignore[index]
