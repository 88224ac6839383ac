"""DyT's video model and its dense features."""

from __future__ import annotations

import pytest
import torch
from tests.contract.families import backbone, images

import vitune
from vitune.errors import UnsupportedBackboneError
from vitune.methods.dyt import DyT
from vitune.methods.dyt.segmentation import DenseFeatures, RelativePositionBias, resized_positions
from vitune.methods.dyt.video import AttentivePooler, VideoClassifier, fused_views


def test_the_pooler_starts_as_a_uniform_mean_of_the_values():
    torch.manual_seed(0)
    pooler = AttentivePooler(8, 2)
    tokens = torch.randn(3, 10, 8)
    expected = pooler.out(pooler.v(pooler.norm_v(tokens)).mean(1))
    torch.testing.assert_close(pooler(tokens), expected)
    counted = sum(p.numel() for p in AttentivePooler(768, 12).parameters())
    assert counted == 2_366_208 + 768  # the pooler and its query, as published


@pytest.mark.parametrize("family", ["plain", "hf"])
def test_a_clip_is_read_frame_by_frame_in_no_order(family):
    tuned = vitune.apply(backbone(family), DyT(bottleneck=4))
    model = VideoClassifier(tuned).eval()
    with torch.no_grad():
        model.pooler.query.normal_()
        clip = torch.stack([images(family, seed=seed) for seed in (1, 2, 3)], dim=2)
        logits = model(clip)
        assert logits.shape == (2, 3)
        torch.testing.assert_close(model(clip.flip(2)), logits, rtol=0, atol=1e-5)
        assert not torch.allclose(model(torch.cat([clip[:, :, :1]] * 3, dim=2)), logits, atol=1e-4)
    logits = model(clip)
    logits.square().sum().backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad is not None for p in trained)
    assert len(trained) == len(tuned.trainable()) + len(list(model.pooler.parameters()))


def test_views_of_a_clip_are_averaged():
    logits = torch.tensor([[1.0, 0], [3.0, 0], [0.0, 2], [0.0, 6]])
    assert fused_views(logits, 2).tolist() == [[2.0, 0.0], [0.0, 4.0]]


def test_relative_positions_are_shared_by_equal_offsets():
    bias = RelativePositionBias((32, 32), 12)
    assert bias.table.shape == (3972, 12)
    small = RelativePositionBias((2, 3), 1)
    with torch.no_grad():
        small.table.copy_(torch.arange(len(small.table)).view(-1, 1))
    (values,) = small()[0]
    assert values[1, 2] == values[2, 3] == values[4, 5]  # one to the right
    assert values[2, 1] == values[5, 4] != values[1, 2]
    assert values[1, 4] == values[3, 6]  # one row down
    assert len(values[0].unique()) == 2  # class to class and class to patch
    assert len(values[1:, 0].unique()) == 1


def test_dense_features_have_four_sizes_and_train_what_is_new():
    tuned = vitune.apply(backbone("plain"), DyT(bottleneck=4))
    model = DenseFeatures(tuned, (0, 1, 2, 3)).eval()
    maps = model(images("plain"))
    assert [tuple(one.shape) for one in maps] == [(2, 32, n, n) for n in (8, 4, 2, 1)]
    sum(one.square().mean() for one in maps).backward()
    assert all(bias.table.grad is not None for bias in model.biases)
    gates = [p for name, p in model.named_parameters() if ".score." in name]
    assert len(gates) == 8
    assert all(p.grad is not None for p in gates)


def test_dense_features_refuse_other_models():
    with pytest.raises(
        UnsupportedBackboneError, match=r"need a timm ViT with a class token .*, not a hf-vit with 1"
    ):
        DenseFeatures(vitune.apply(backbone("hf"), DyT(bottleneck=4)))
    with pytest.raises(UnsupportedBackboneError, match=r"four blocks of the 4, not \[3, 5, 7, 11\]"):
        DenseFeatures(vitune.apply(backbone("plain"), DyT(bottleneck=4)))


def test_positions_are_resized_but_for_the_class_token():
    positions = torch.randn(1, 17, 8)
    assert torch.equal(resized_positions(positions, (4, 4), (4, 4)), positions)
    larger = resized_positions(positions, (4, 4), (8, 6))
    assert larger.shape == (1, 49, 8)
    assert torch.equal(larger[:, 0], positions[:, 0])
    constant = resized_positions(torch.ones(1, 17, 2), (4, 4), (8, 8))
    torch.testing.assert_close(constant, torch.ones(1, 65, 2))
