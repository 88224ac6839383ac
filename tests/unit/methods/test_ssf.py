"""SSF on every family: sites, counts of the released networks, merging, the pair in front of a pooling."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

import vitune
import vitune.backbones as backbones  # registers AS-MLP
from vitune.adapters import unfoldable
from vitune.errors import SurgeryError, UnsupportedBackboneError
from vitune.measure import saved_activation_bytes, weightless_copy
from vitune.methods import parse

assert backbones.BUILT_IN
TINY_CONVNEXT = {"dims": (8, 12, 16, 24), "depths": (1, 1, 2, 1), "num_classes": 3}
TINY_SWIN = {
    "img_size": 32,
    "embed_dim": 16,
    "depths": (2, 2),
    "num_heads": (2, 4),
    "window_size": 4,
    "num_classes": 3,
}


def tiny(name: str, **arguments) -> nn.Module:
    """A model whose biases and norms are not trivial."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model(name, **arguments).eval()
        for parameter in model.parameters():
            parameter.data.add_(0.1 * torch.randn_like(parameter))
        for buffer_name, buffer in model.named_buffers():
            if "running" in buffer_name:
                buffer.add_(0.1 * torch.rand_like(buffer))
    return model


def images(size: int) -> torch.Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


# (model, settings): pairs, parameters of the classifier's module that train beside the linear layer
PUBLISHED = {
    ("swin_base_patch4_window7_224", "ssf"): (267_264, 0),
    ("swin_base_patch4_window7_224", "ssf(downsample=true)"): (267_264 + 7_168, 0),
    ("convnext_base", "ssf"): (255_232, 2_048),
    ("convnext_base", "ssf(downsample=true)"): (255_232 + 5_376, 2_048),
    ("as_mlp_base", "ssf"): (266_752, 0),
    ("as_mlp_base", "ssf(downsample=true)"): (266_752 + 7_168 + 512, 0),
    ("vit_large_patch16_224", "ssf"): (544_768, 0),
}


@pytest.mark.parametrize(("name", "text"), PUBLISHED)
def test_counts_of_the_released_networks(name, text):
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=100)
    costs = vitune.apply(model, parse(text), check=False).costs()
    pairs, beside = PUBLISHED[name, text]
    by_kind = {
        kind: sum(e.parameters for e in costs.edits if (e.edit == "train") == kind) for kind in (True, False)
    }
    assert by_kind == {True: beside, False: pairs}
    assert costs.head_parameters == 102_500


def test_the_norm_in_the_head_of_convnext_trains_as_it_is():
    tuned = vitune.apply(tiny("convnext_atto", **TINY_CONVNEXT), vitune.SSF(), check=False)
    assert {"head.norm.weight", "head.norm.bias"} <= tuned.trainable().keys()
    assert not any(name.startswith("head.norm.vitune") for name in tuned.trainable())


def test_as_mlp_has_no_pairs_in_its_patch_embedding_and_inner_norms():
    model = tiny("as_mlp_tiny", embed_dim=12, depths=(1, 1), img_size=32, num_classes=3)
    roles = {edit.role for edit in vitune.apply(model, vitune.SSF(), check=False).costs().edits}
    assert roles == {"norm"} | {
        f"blocks.{i}.{role}"
        for i in range(2)
        for role in (
            "norm1",
            "shift.in",
            "shift.width",
            "shift.height",
            "shift.out",
            "norm2",
            "mlp.in",
            "mlp.out",
        )
    }


@pytest.mark.parametrize(
    ("name", "arguments", "size", "stuck"),
    [
        ("swin_tiny_patch4_window7_224", TINY_SWIN, 32, []),
        ("as_mlp_tiny", {"embed_dim": 12, "depths": (1, 2), "img_size": 32, "num_classes": 3}, 32, []),
        ("convnext_atto", TINY_CONVNEXT, 64, ["norm (ssf)"]),
        ("convnext_zepto_rms_ols", {**TINY_CONVNEXT, "dims": (8, 12, 16, 24)}, 64, None),
        ("mixer_s32_224", {"img_size": 64, "mlp_ratio": (0.1, 0.1), "num_classes": 3}, 64, []),
        (
            "resnet18",
            {"layers": (1, 1, 1, 1), "channels": (8, 8, 16, 24), "stem_width": 8, "num_classes": 3},
            64,
            [],
        ),
        ("mobilenetv3_small_050", {"num_classes": 3}, 64, []),
        ("regnety_002", {"num_classes": 3}, 64, []),
    ],
)
def test_merging_with_all_options(name, arguments, size, stuck):
    tuned = vitune.apply(tiny(name, **arguments), vitune.SSF(downsample=True, init_std=0.1))
    x = images(size)
    with torch.no_grad():
        expected = tuned(x)
        if stuck is not None:
            assert unfoldable(tuned) == stuck
        assert not torch.allclose(expected, tiny(name, **arguments)(x), atol=1e-3)
        merged = vitune.adapters.merge(tuned, partial=True)
        torch.testing.assert_close(merged(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "arguments", "size", "behind"),
    [
        ("convnext_atto", TINY_CONVNEXT, 64, "head.norm"),
        (
            "vit_tiny_patch16_224",
            {"img_size": 32, "embed_dim": 32, "depth": 2, "num_heads": 2, "global_pool": "avg"},
            32,
            "fc_norm",
        ),
    ],
)
def test_the_pair_in_front_of_the_pooling_moves_behind_it(name, arguments, size, behind):
    model = tiny(name, **arguments)
    tuned = vitune.apply(model, vitune.SSF(init_std=0.1))
    x = images(size)
    with torch.no_grad():
        expected = tuned(x)
    with pytest.raises(SurgeryError, match=r"1 edits cannot be merged \(first: norm \(ssf\)\)"):
        tuned.merge()
    vitune.adapters.merge(tuned, partial=True)
    assert [n for n, _ in model.named_parameters() if ".vitune." in n] == [
        f"{behind}.vitune.ssf.{name}" for name in ("scale", "shift")
    ]
    seen = []
    model.get_submodule(f"{behind}.vitune.ssf").register_forward_hook(lambda m, i, o: seen.append(o.shape))
    with torch.no_grad():
        torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)
    assert seen[0].numel() == 2 * seen[0][1]  # one vector per image
    tuned.detach()
    assert not any(".vitune" in n for n, _ in model.named_modules())


def test_a_pair_in_a_norm_that_activates_lies_in_front_of_the_activation():
    model = tiny("mobilenetv3_small_050", num_classes=3)
    tuned = vitune.apply(model, vitune.SSF(roles=("stem.norm1",), init_std=0.5))
    norm: nn.Module = model.bn1
    x = torch.randn(2, 16, 4, 4, generator=torch.Generator().manual_seed(2))
    pair = norm.vitune.ssf
    plain = F.batch_norm(
        x,
        norm.running_mean,
        norm.running_var,
        norm._parameters["weight"],
        norm._parameters["bias"],
        eps=norm.eps,
    )
    expected = F.hardswish(plain * pair.scale[:, None, None] + pair.shift[:, None, None])
    torch.testing.assert_close(norm(x), expected)
    assert "stem.norm1" in {edit.role for edit in tuned.costs().edits}


def test_pairs_lie_behind_the_batch_norm_of_a_convolution_alone():
    arguments = {"layers": (1, 1, 1, 1), "channels": (8, 8, 16, 24), "stem_width": 8}
    roles = {
        edit.role
        for edit in vitune.apply(tiny("resnet18", **arguments), vitune.SSF(), check=False).costs().edits
    }
    assert {"stem.norm1", "blocks.0.norm1", "blocks.1.shortcut.norm1"} <= roles
    assert not any("conv" in role for role in roles)


def test_a_named_convolution_has_its_pair():
    arguments = {"layers": (1, 1, 1, 1), "channels": (8, 8, 16, 24), "stem_width": 8}
    tuned = vitune.apply(tiny("resnet18", **arguments), vitune.SSF(roles=("blocks.0.conv1",)))
    assert [edit.role for edit in tuned.costs().edits] == ["blocks.0.conv1"]


def test_rows_of_a_fused_layer_are_refused():
    with pytest.raises(
        UnsupportedBackboneError, match=r"'blocks\.0\.attn\.q' is a part of the layer 'blocks\.0\.attn\.qkv'"
    ):
        vitune.apply(tiny("swin_tiny_patch4_window7_224", **TINY_SWIN), vitune.SSF(roles=("attn.q",)))


def saved(text: str, name: str, size: int, **arguments) -> int:
    with torch.device("meta"):
        model = timm.create_model(name, **arguments)
    vitune.apply(model, parse(text), check=False)
    with weightless_copy(model.train()) as twin:
        return saved_activation_bytes(twin, lambda m: m(torch.randn(2, 3, size, size)).sum()).bytes


def test_pairs_of_norms_keep_nothing():
    arguments = {"img_size": 32, "embed_dim": 32, "depth": 2, "num_heads": 2}
    without = saved("bitfit", "vit_tiny_patch16_224", 32, **arguments)
    norms = saved("bitfit,ssf(roles=norm1+norm2)", "vit_tiny_patch16_224", 32, **arguments)
    assert norms - without <= 2 * 2 * 2 * 32 * 4  # s g and s b + t of four norms, no activation


VIT = {"img_size": 32, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 3}


def test_a_block_keeps_eleven_times_its_width():
    one, two = (saved("ssf", "vit_tiny_patch16_224", 32, **{**VIT, "depth": depth}) for depth in (2, 3))
    tokens, width = 2 * 5, 32
    # Inputs of two norms, and of the pairs: qkv 3, attention's output 1, MLP 4 and 1; mean and deviation of two norms.
    activations = tokens * (2 + 3 + 1 + 4 + 1) * width + 2 * 2 * tokens
    affines = 2 * 2 * width  # s g and s b + t of two norms
    assert two - one == 4 * (activations + affines)


def test_what_is_computed_again_gives_the_same_gradients():
    def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        model(images(32)).square().sum().backward()
        return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}

    again, kept = (tiny("vit_tiny_patch16_224", **VIT) for _ in range(2))
    vitune.apply(again, vitune.SSF(init_std=0.1), seed=1)
    vitune.apply(kept, vitune.SSF(init_std=0.1), seed=1)
    for block in kept.blocks:
        block.attn.qkv.register_forward_hook(lambda m, i, o: None)  # whoever looks at qkv sees what it gives
    found, wanted = gradients(again), gradients(kept)
    assert found.keys() == wanted.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-5, atol=1e-6, msg=name)


def test_a_later_edit_of_the_mlp_acts_on_the_scaled_output():
    x = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(3))
    model = tiny("vit_tiny_patch16_224", **VIT)
    vitune.apply(model, parse("ssf(init_std=0.1),lora(roles=mlp.in,rank=2)"))
    mlp = model.blocks[0].mlp
    lora, pair = mlp.fc1.vitune.lora, mlp.fc1.vitune.ssf
    nn.init.normal_(lora.in_.up)
    plain = F.linear(x, mlp.fc1.weight, mlp.fc1.bias)
    hidden = F.gelu(plain * pair.scale + pair.shift + F.linear(F.linear(x, lora.down()), lora.up()))
    out = F.linear(hidden, mlp.fc2.weight, mlp.fc2.bias)
    out = out * mlp.fc2.vitune.ssf.scale + mlp.fc2.vitune.ssf.shift
    torch.testing.assert_close(mlp(x), out, rtol=1e-5, atol=1e-5)


def test_half_precision_gradients_are_close_to_those_of_full_precision():
    def gradients(half: bool) -> list[torch.Tensor]:
        model = tiny("vit_tiny_patch16_224", **VIT)
        tuned = vitune.apply(model, vitune.SSF())
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = tuned(images(32)).float().square().mean()
        loss.backward()
        return [p.grad for p in tuned.parameters() if p.grad is not None]

    full, half = gradients(False), gradients(True)
    assert len(full) == len(half)
    total = torch.cat([f.flatten() for f in full])
    assert torch.cat([h.flatten() for h in half]).sub(total).norm() < 0.1 * total.norm()


def test_dropout_in_the_attention_draws_the_same_twice():
    model = tiny("vit_tiny_patch16_224", **VIT, attn_drop_rate=0.5).train()
    tuned = vitune.apply(model, vitune.SSF())
    torch.manual_seed(0)
    tuned(images(32)).sum().backward()
    found = model.blocks[1].attn.qkv.vitune.ssf.shift.grad.clone()
    model.zero_grad()
    for block in model.blocks:
        block.attn.qkv.register_forward_hook(lambda m, i, o: None)
    torch.manual_seed(0)
    tuned(images(32)).sum().backward()
    torch.testing.assert_close(model.blocks[1].attn.qkv.vitune.ssf.shift.grad, found, rtol=1e-4, atol=1e-5)
