"""HST: the pyramid's shapes, its equality with the resize of all channels, what a checkpoint must hold."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

import vitune
from vitune.errors import ConfigError, UnsupportedBackboneError
from vitune.measure import saved_activation_bytes

SMALL = {"widths": (4, 6, 8, 12), "num_heads": (1, 2, 2, 3)}


def vit(**arguments) -> nn.Module:
    arguments = {"img_size": 32, "embed_dim": 32, "depth": 4, "num_heads": 2, "num_classes": 3} | arguments
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", **arguments)


def test_the_pyramid_has_strides_4_to_32():
    tuned = vitune.apply(vit(img_size=(64, 96)), vitune.HST(**SMALL))
    tuned.model.eval()
    maps = tuned.model.forward_pyramid(torch.randn(2, 3, 64, 96))
    assert [tuple(m.shape) for m in maps] == [(2, 4, 16, 24), (2, 6, 8, 12), (2, 8, 4, 6), (2, 12, 2, 3)]


def test_odd_sizes_are_rounded_up():
    tuned = vitune.apply(vit(img_size=48), vitune.HST(**SMALL))
    maps = tuned.model.eval().forward_pyramid(torch.randn(1, 3, 48, 48))
    assert [m.shape[-1] for m in maps] == [12, 6, 3, 2]


def test_the_bridge_before_the_resize_is_the_bridge_behind_it():
    side = vitune.apply(vit(), vitune.HST(**SMALL)).model.vitune.hst
    patches, y = torch.randn(2, 4, 32), torch.randn(2, 64, 4)
    seen = []
    side.stages[0][0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[2]))
    side.side_step((0, 0, 0), y, (8, 8), torch.randn(2, 1, 32), (patches, 0, (2, 2)))
    wide = F.interpolate(patches.transpose(1, 2).unflatten(2, (2, 2)), size=(8, 8), mode="bilinear")
    torch.testing.assert_close(seen[0], side.bridge[0](wide.flatten(2).transpose(1, 2)))


def test_stages_may_be_uneven_and_must_cover_the_blocks():
    tuned = vitune.apply(vit(depth=6), vitune.HST(depths=(1, 2, 1, 2), **SMALL))
    assert [len(stage) for stage in tuned.model.vitune.hst.stages] == [1, 2, 1, 2]
    with pytest.raises(ConfigError, match=r"covers 5 blocks, the backbone has 4"):
        vitune.apply(vit(), vitune.HST(depths=(1, 2, 1, 1), **SMALL))
    with pytest.raises(ConfigError, match=r"6 blocks do not divide into four stages; .* depths=1\+2\+1\+2"):
        vitune.apply(vit(depth=6), vitune.HST(**SMALL))


def test_what_it_does_not_run_on_is_refused():
    with pytest.raises(UnsupportedBackboneError, match="at least four blocks, this model has 2"):
        vitune.apply(vit(depth=2), vitune.HST(**SMALL))
    with pytest.raises(UnsupportedBackboneError, match="one classification head, this model has none"):
        vitune.apply(vit(num_classes=0), vitune.HST(**SMALL))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"widths": (4, 6, 8)}, "widths must be four numbers of at least 1"),
        ({"widths": (4, 6, 8, 13)}, "widths must be divisible by num_heads"),
        ({"depths": (1, 1)}, "depths must be empty or four numbers"),
        ({"meta_tokens": 0}, "meta_tokens must be at least 1"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        vitune.HST(**(SMALL | settings))


def test_one_image_trains_and_two_are_not_mixed_in_eval():
    tuned = vitune.apply(vit(), vitune.HST(**SMALL))
    tuned.model.train()
    images = torch.randn(2, 3, 32, 32)
    tuned(images[:1]).sum().backward()
    tuned.model.eval()
    torch.testing.assert_close(tuned(images)[:1], tuned(images[:1]))


def test_the_state_holds_the_statistics_of_both_batch_norms():
    state = vitune.apply(vit(), vitune.HST(**SMALL)).state()
    for norm in ("stem.bn", "head_norm"):
        assert {f"vitune.hst.{norm}.running_mean", f"vitune.hst.{norm}.running_var"} <= state.keys()
    assert "head.weight" not in state
    assert state["head.vitune.hst.weight"].shape == (3, 12)


def test_a_new_number_of_classes_keeps_the_side_width():
    tuned = vitune.apply(vit(num_classes=7), vitune.HST(**SMALL))
    assert tuned(torch.randn(2, 3, 32, 32)).shape == (2, 7)


def test_transformers_vit_computes_the_same():
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=32,
        num_labels=3,
    )
    tuned = vitune.apply(transformers.ViTForImageClassification(config), vitune.HST(**SMALL))
    output = tuned.model(pixel_values=torch.randn(2, 3, 32, 32), labels=torch.tensor([0, 1]))
    assert output.logits.shape == (2, 3)
    output.loss.backward()
    assert all(p.grad is not None for p in tuned.parameters())


def test_drop_path_rises_over_the_side_blocks():
    side = vitune.apply(vit(), vitune.HST(drop_path=0.3, **SMALL)).model.vitune.hst
    rates = [block.drop_path.rate for stage in side.stages for block in stage]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3])


def test_saved_activations_do_not_grow():
    model = vitune.apply(vit(depth=8), vitune.HST(**SMALL)).model.train()
    images = torch.randn(2, 3, 32, 32)
    # With the patch maps kept a second time it would be 8 x 2 images x 4 tokens x 32 channels x 4 bytes more.
    assert saved_activation_bytes(model, lambda model: model(images).sum()).bytes == 290_224
