"""VPT: prompts are what a literal sequence would make of them, and nobody else sees them."""

from __future__ import annotations

import math

import pytest
import timm
import torch
from tests.contract.families import backbone, images
from torch import Tensor, nn

import vitune
from vitune.errors import ConfigError, UnsupportedBackboneError
from vitune.measure import saved_activation_bytes, weightless_copy
from vitune.methods.vpt.layers import Leave, Prompts
from vitune.surgery import AttachAtPoint, carry_out

WIDTH = 32


def small(depth: int = 3, **options) -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model(
        "vit_tiny_patch16_224",
        **{"img_size": 32, "embed_dim": WIDTH, "depth": depth, "num_heads": 2, "num_classes": 3, **options},
    )
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def prompts_of(tuned: vitune.Tuned) -> list[Tensor]:
    return [module.prompts for module in tuned.model.modules() if isinstance(module, Prompts)]


def literal(model: nn.Module, x: Tensor, prompts: list[Tensor], fresh: list[int], gone: int | None) -> Tensor:
    """Class scores with prompts written into the sequence: new ones in front of the blocks of `fresh`, and from block
    `gone` on without any, or with them to the end."""
    x = model.norm_pre(model._pos_embed(model.patch_embed(x)))
    prefix, count, inside = model.num_prefix_tokens, 0, iter(prompts)
    for i, block in enumerate(model.blocks):
        if i in fresh or i == gone:
            x = torch.cat([x[:, :prefix], x[:, prefix + count :]], dim=1)
            count = 0
        if i in fresh:
            rows = next(inside).expand(len(x), -1, -1)
            x, count = torch.cat([x[:, :prefix], rows, x[:, prefix:]], dim=1), rows.shape[1]
        x = block(x)
    if gone is not None:
        x = torch.cat([x[:, :prefix], x[:, prefix + count :]], dim=1)
    return model.forward_head(model.norm(x))


@pytest.mark.parametrize(
    ("settings", "fresh", "gone"),
    [
        ({}, [0, 1, 2], 3),
        ({"mode": "shallow"}, [0], 3),
        ({"layers": 2}, [0, 1], 3),
        ({"layers": 2, "evolve": False}, [0, 1], 2),
        ({"layers": 2, "side": "last"}, [1, 2], 3),
        ({"share": True}, [0, 1, 2], 3),
    ],
)
@pytest.mark.parametrize("pooling", ["token", "avg"])
def test_prompts_are_what_they_would_be_in_the_sequence(settings, fresh, gone, pooling):
    options = {"global_pool": pooling, "class_token": pooling == "token"}
    plain, tuned = small(**options), vitune.apply(small(**options), vitune.VPT(prompts=4, **settings), seed=1)
    prompts = prompts_of(tuned)
    assert len(prompts) == len(fresh)
    assert len({id(p) for p in prompts}) == (1 if settings.get("share") else len(fresh))
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(tuned(x), literal(plain, x, prompts, fresh, gone), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "fresh"),
    [
        ({}, [0, 1, 2]),
        ({"mode": "shallow"}, [0]),
        ({"layers": 2}, [0, 1]),
        ({"layers": 1, "side": "last"}, [2]),
    ],
)
def test_prompts_of_the_last_block_are_averaged_where_asked_for(settings, fresh):
    options = {"global_pool": "avg", "class_token": True}
    method = vitune.VPT(prompts=4, pool_prompts=True, **settings)
    plain, tuned = small(**options), vitune.apply(small(**options), method, seed=1)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = literal(plain, x, prompts_of(tuned), fresh, gone=None)
        torch.testing.assert_close(tuned(x), expected, atol=2e-6, rtol=1e-5)
        final, maps = tuned.model.forward_intermediates(x, output_fmt="NLC")
        assert {m.shape[1] for m in maps} == {4}
        torch.testing.assert_close(tuned.model.forward_head(final), expected, atol=2e-6, rtol=1e-5)


def test_averaged_prompts_have_the_same_gradients_at_every_memory_level():
    options = {"global_pool": "avg", "class_token": True}
    found = {}
    for level in ("stock", "lean"):
        tuned = vitune.apply(small(**options), vitune.VPT(prompts=4, pool_prompts=True, dropout=0.0), seed=1)
        x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        tuned.memory = level
        tuned.model.train()
        tuned(x).square().sum().backward()
        found[level] = [prompts.grad for prompts in prompts_of(tuned)]
    assert all(torch.equal(a, b) for a, b in zip(found["stock"], found["lean"], strict=True))


@pytest.mark.parametrize("settings", [{"mode": "shallow"}, {"layers": 2}, {}], ids=str)
def test_feature_maps_are_those_of_the_patches(settings):
    plain, tuned = small(), vitune.apply(small(), vitune.VPT(prompts=3, **settings), seed=1)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        seen = {}
        for i, block in enumerate(tuned.model.blocks):
            block.register_forward_hook(lambda m, a, y, i=i: seen.__setitem__(i, y[:, -4:]))
        for kwargs in ({}, {"output_fmt": "NLC"}, {"return_prefix_tokens": True}, {"output_dict": True}):
            expected, found = (
                plain.forward_intermediates(x, **kwargs),
                tuned.model.forward_intermediates(x, **kwargs),
            )
            assert shapes(found) == shapes(expected), kwargs
        maps = tuned.model.forward_intermediates(x, output_fmt="NLC", intermediates_only=True)
        assert all(torch.equal(value, seen[i]) for i, value in enumerate(maps))
        assert tuned.model.get_intermediate_layers(x, 2, reshape=True)[0].shape == (2, WIDTH, 2, 2)
        final, _ = tuned.model.forward_intermediates(x, indices=[1], stop_early=True)
        assert final.shape == (2, 5, WIDTH)
        assert tuned.model.forward_features(x).shape == (2, 5, WIDTH)


def shapes(value) -> object:
    if isinstance(value, Tensor):
        return tuple(value.shape)
    if isinstance(value, dict):
        return {name: shapes(part) for name, part in value.items()}
    return [shapes(part) for part in value]


def test_start_follows_the_published_distribution():
    tuned = vitune.apply(small(), vitune.VPT(prompts=50), seed=1)
    bound = math.sqrt(6 / (3 * 16 * 16 + WIDTH))
    values = torch.cat(prompts_of(tuned))
    assert values.abs().max() <= bound
    assert values.abs().max() > 0.98 * bound
    assert abs(values.std().item() - bound / math.sqrt(3)) < 0.02 * bound
    projected = vitune.apply(small(), vitune.VPT(prompts=50, project=8), seed=1)
    bound = math.sqrt(6 / (3 * 16 * 16 + 8))
    assert 0.95 * bound < torch.cat(prompts_of(projected)).abs().max() <= bound
    layers = {m.project for m in projected.model.modules() if isinstance(m, Prompts)}
    (layer,) = layers
    assert isinstance(layer, nn.Linear)
    assert abs(layer.weight.std().item() - math.sqrt(2 / WIDTH)) < 0.05


def test_dropout_draws_for_every_image_and_only_in_training():
    layer = Prompts(nn.Parameter(torch.ones(6, 8)), 0.5, 1)
    rows = layer(torch.zeros(3, 5, 8))
    assert rows.shape == (3, 6, 8)
    assert set(rows.unique().tolist()) == {0.0, 2.0}
    assert not torch.equal(rows[0], rows[1])
    assert torch.equal(layer.eval()(torch.zeros(3, 5, 8)), torch.ones(1, 6, 8))
    assert (vitune.VPT().rate, vitune.VPT(mode="shallow").rate, vitune.VPT(dropout=0.3).rate) == (
        0.1,
        0.0,
        0.3,
    )


def test_leaving_takes_out_the_prompts_alone():
    x = torch.arange(6.0).view(1, 6, 1)
    assert Leave(2, 1)(x).flatten().tolist() == [0, 3, 4, 5]


def test_deep_prompts_cost_their_keys_and_values_and_nothing_else():
    """One qkv row more per prompt and block; a norm's statistics and its input once, not per image."""

    def kept(prompts: int) -> int:
        with weightless_copy(vitune.apply(small(), vitune.VPT(prompts=prompts, dropout=0.0)).model) as twin:
            return saved_activation_bytes(twin.train(), lambda m: m(torch.zeros(8, 3, 32, 32)).sum()).bytes

    # Keys, values and the queries beside them, for 8 images; LayerNorm's mean and scale, for none.
    assert kept(5) - kept(4) == 3 * 4 * (8 * 3 * WIDTH + 2)


def test_a_shared_prompt_is_one_parameter_in_the_adapter(tmp_path):
    tuned = vitune.apply(small(), vitune.VPT(prompts=4, share=True, project=8), seed=1)
    names = [name for name in tuned.trainable() if "vitune" in name]
    assert [name.split("vpt.")[1] for name in names] == ["prompts", "project.weight", "project.bias"]
    assert tuned.costs().method_parameters == 4 * 8 + 8 * WIDTH + WIDTH
    assert len({id(parameter) for parameter in tuned.parameters()}) == len(tuned.trainable())


@pytest.mark.parametrize("mode", ["deep", "shallow"])
def test_swin_keeps_the_prompts_of_every_image_apart(mode):
    tuned = vitune.apply(backbone("swin"), vitune.VPT(prompts=3, mode=mode), seed=1)
    tuned.model.eval()
    batch = images("swin", 4)
    with torch.no_grad():
        together = tuned(batch)
        apart = torch.cat([tuned(image) for image in batch.split(1)])
        torch.testing.assert_close(together, apart, atol=1e-6, rtol=1e-5)
        maps = tuned.model.forward_intermediates(batch, intermediates_only=True)
    assert [tuple(m.shape[2:]) for m in maps] == [(8, 8), (4, 4)]


def test_swin_mixes_the_prompts_of_images_only_when_asked_to():
    def outputs(batch: torch.Tensor, mix: bool) -> torch.Tensor:
        method = vitune.VPT(prompts=3, mode="shallow", mix_windows=mix)
        tuned = vitune.apply(backbone("swin"), method, seed=1)
        tuned.model.eval()
        with torch.no_grad():
            return tuned(batch)

    batch = images("swin", 4)
    right, mixed = outputs(batch, False), outputs(batch, True)
    assert (right - mixed).abs().max() > 1e-4
    # An image alone has nobody to mix with.
    alone = batch[:1]
    torch.testing.assert_close(outputs(alone, False), outputs(alone, True), atol=1e-6, rtol=1e-5)


def test_the_wrong_order_of_windows_is_that_of_the_reference():
    """Its rows lie window after window, and the windows image after image."""
    model = backbone("swin").eval()
    attention = model.layers[0].blocks[0].attn
    step = AttachAtPoint("a", "layers.0.blocks.0.attn", "attn.kv", "test", Nothing)
    carry_out(model, [step])
    windows, batch, asks = 4, 2, 3
    x, rows = torch.randn(batch * windows, 16, 16), torch.randn(batch, asks, 16)
    with torch.no_grad():
        y, told = attention(x, asking=rows, mixed=True)
        # Each window on its own, as a batch of one image with one window.
        each = [attention(x[i : i + 1], asking=rows[i % batch][None]) for i in range(batch * windows)]
    torch.testing.assert_close(y, torch.cat([one for one, _ in each]))
    expected = [sum(each[i][1][0] for i in range(b, batch * windows, batch)) / windows for b in range(batch)]
    torch.testing.assert_close(told, torch.stack(expected))


class Nothing(torch.nn.Module):
    """No further keys and values."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        nothing = torch.zeros(1, 2, 0, 8)
        return nothing, nothing


@pytest.mark.parametrize("family", ["plain", "registers", "gap"])
def test_many_prompts_are_projected_once_for_a_batch(family):
    tuned = vitune.apply(backbone(family), vitune.VPT(prompts=20), seed=1)
    tuned.model.eval()
    calls = []
    qkv = tuned.model.blocks[1].attn.qkv
    qkv.register_forward_hook(lambda _, args, __: calls.append(tuple(args[0].shape[:2])))
    batch = images(family, 3)
    expected = tuned(batch).detach()
    tokens = calls.pop()[1]
    with torch.no_grad():
        found = tuned(batch)
    assert sorted(calls) == [(1, 20), (3, tokens - 20)]
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-5)


def test_swin_prompts_are_pooled_with_the_patches():
    tuned = vitune.apply(backbone("swin"), vitune.VPT(prompts=3), seed=1)
    pool = tuned.model.get_submodule("head.global_pool")
    x = torch.randn(2, 5, 4, 6)  # four rows of patches; three prompts and a filler below
    expected = (x[:, :4].sum((1, 2)) + x[:, 4, :3].sum(1)) / 19
    torch.testing.assert_close(pool(x), expected)


@pytest.mark.parametrize(
    ("settings", "family", "error", "message"),
    [
        ({"prompts": 0}, "plain", ConfigError, "vpt: prompts must be at least 1, not 0."),
        ({"mode": "x"}, "plain", ConfigError, "vpt: mode must be 'deep' or 'shallow', not 'x'."),
        ({"layers": -1}, "plain", ConfigError, "vpt: layers must be at least 0, not -1."),
        ({"side": "x"}, "plain", ConfigError, "vpt: side must be 'first' or 'last', not 'x'."),
        ({"project": 0}, "plain", ConfigError, "vpt: project must be at least 1 or none, not 0."),
        ({"dropout": 1.0}, "plain", ConfigError, "vpt: dropout must be in [0, 1), not 1.0."),
        (
            {"mode": "shallow", "share": True},
            "plain",
            ConfigError,
            "vpt: share belongs to mode=deep; shallow prompts are those of one block.",
        ),
        (
            {"layers": 9},
            "plain",
            UnsupportedBackboneError,
            "vpt: layers=9, but this timm-vit backbone has 4 blocks.",
        ),
        (
            {"project": 4},
            "swin",
            UnsupportedBackboneError,
            "vpt: project is not defined for a Swin, whose stages differ in width; leave it out.",
        ),
        (
            {"mix_windows": True},
            "plain",
            UnsupportedBackboneError,
            "vpt: mix_windows belongs to the windows of a Swin, and this is a timm-vit backbone; leave it out.",
        ),
        (
            {"pool_prompts": True},
            "plain",
            UnsupportedBackboneError,
            "vpt: pool_prompts belongs to a timm ViT that averages its patches, and this is a timm-vit backbone with "
            "pooling 'token'; leave it out.",
        ),
        (
            {"pool_prompts": True, "layers": 2, "evolve": False},
            "plain",
            ConfigError,
            "vpt: pool_prompts needs prompts in the last block, and evolve=false drops them before.",
        ),
        (
            {"mode": "shallow"},
            "dinov3",
            UnsupportedBackboneError,
            "vpt: prompts that pass through blocks would shift the positions of the patches in a timm-eva backbone; "
            "use mode=deep for all blocks.",
        ),
        (
            {},
            "convnext",
            UnsupportedBackboneError,
            "vpt: block 0 of this timm-convnext backbone does not attend to tokens beyond its own.",
        ),
    ],
)
def test_what_it_cannot_do_is_refused(settings, family, error, message):
    def use() -> None:
        vitune.apply(backbone(family), vitune.VPT(**settings))

    with pytest.raises(error) as caught:
        use()
    assert str(caught.value) == message
