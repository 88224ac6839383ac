"""SCT: which channels are chosen, from what, when; and what the maps keep and leave alone."""

from __future__ import annotations

import dataclasses

import pytest
import timm
import torch
from tests.contract.cases import randomise
from tests.contract.families import backbone, images
from tests.unit.training.small import small_config, small_data, small_model
from torch.nn import functional as F

import vitune
from vitune.anatomy import anatomy
from vitune.errors import ConfigError, DataError, NothingMatchedError, UnsupportedBackboneError
from vitune.measure import saved_activation_bytes, weightless_copy
from vitune.methods.sct import Salience, class_norms, salient_channels, set_channels
from vitune.methods.sct.sites import sites
from vitune.training import fit

DEPTH = len(backbone("plain").blocks)
LABELS = torch.tensor([3, 0, 3, 3, 0, 5])


def batches(family: str = "plain"):
    pictures = images(family, batch=6)
    return [(pictures[:4], LABELS[:4]), (pictures[4:], LABELS[4:])]


def test_score_is_the_mean_over_seen_classes_of_one_norm_per_class():
    model, method = backbone("plain").eval(), vitune.SCT(channels=4)
    seen = []
    handles = [
        block.norm2.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        for block in model.blocks
    ]
    with torch.no_grad():
        model(images("plain", batch=6))
    for handle in handles:
        handle.remove()
    found = class_norms(model, sites(anatomy(model), method), batches())
    assert list(found) == [f"blocks.{i}.middle" for i in range(DEPTH)]
    for salience, stream in zip(found.values(), seen, strict=True):
        patches = stream[:, 1:].double()
        norms = [patches[label == LABELS].reshape(-1, 32).norm(dim=0) for label in (0, 3, 5)]
        assert salience.classes.tolist() == [0, 3, 5]
        torch.testing.assert_close(salience.norms, torch.stack(norms), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(salience.score, torch.stack(norms).mean(0), rtol=1e-6, atol=1e-6)


def test_ties_go_to_the_lower_channel_and_the_order_is_ascending():
    norms = torch.tensor([[1.0, 7.0, 2.0, 7.0, 2.0, 2.0]])
    salience = Salience(torch.tensor([0]), norms)
    assert salience.top(1).tolist() == [1]
    assert salience.top(3).tolist() == [1, 2, 3]
    assert salience.top(4).tolist() == [1, 2, 3, 4]
    assert salience.top(6).tolist() == [0, 1, 2, 3, 4, 5]


def test_what_is_measured_per_mode():
    model = backbone("plain").eval()
    kept: dict[str, torch.Tensor] = {}

    def keep(name):
        return lambda module, inputs, output: kept.__setitem__(name, output)

    block = model.blocks[1]
    block.register_forward_hook(keep("block"))
    block.mlp.fc2.register_forward_hook(keep("mlp"))
    block.attn.qkv.register_forward_hook(keep("qkv"))
    with torch.no_grad():
        model(images("plain"))
    rows = {"q": kept["qkv"][..., :32], "v": kept["qkv"][..., 64:]}
    for settings, role, tensor in (
        ({"mode": "mlp"}, "mlp.out", kept["block"]),
        ({"mode": "mlp", "score_where_it_acts": True}, "mlp.out", kept["mlp"]),
        ({"mode": "qkv"}, "attn.q", rows["q"]),
        ({"mode": "qkv"}, "attn.v", rows["v"]),
    ):
        method = vitune.SCT(channels=5, **settings)
        chosen = salient_channels(model, [(images("plain"), torch.tensor([0, 0]))], method)
        expected = tensor[:, 1:].square().sum((0, 1)).topk(5).indices.sort().values
        assert chosen[f"blocks.1.{role}"].tolist() == expected.tolist()


@pytest.mark.parametrize("family", ["registers", "siglip", "hf"])
def test_only_patch_tokens_are_scored(family):
    model = backbone(family).eval()
    found = anatomy(model)
    tokens = []
    norms = [block.path + ".norm2" for block in found.blocks]
    if family == "hf":
        norms = [block.path + ".layernorm_after" for block in found.blocks]
    model.get_submodule(norms[0]).register_forward_pre_hook(lambda _, inputs: tokens.append(inputs[0]))
    with torch.no_grad():
        vitune.anatomy.logits(model, images(family))
    measured = class_norms(
        model, sites(found, vitune.SCT(channels=4)), [(images(family), torch.tensor([0, 0]))]
    )
    patches = found.grid[0] * found.grid[1]
    expected = tokens[0][:, -patches:].square().sum((0, 1)).sqrt()
    torch.testing.assert_close(measured["blocks.0.middle"].score, expected.double(), rtol=1e-5, atol=1e-5)


def test_the_pass_ends_after_the_last_site_and_changes_nothing():
    model = backbone("plain").train()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    looks = [(n, type(m), m.training, len(m._forward_hooks)) for n, m in model.named_modules()]
    ran = []
    model.blocks[-2].mlp.fc2.register_forward_hook(lambda *_: ran.append("last but one"))
    model.blocks[-1].mlp.fc1.register_forward_hook(lambda *_: ran.append("last"))
    salient_channels(model, batches(), vitune.SCT(channels=4))
    assert ran == ["last but one"] * 2
    model.blocks[-2].mlp.fc2._forward_hooks.clear()
    model.blocks[-1].mlp.fc1._forward_hooks.clear()
    assert looks == [(n, type(m), m.training, len(m._forward_hooks)) for n, m in model.named_modules()]
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def index_of(tuned, block: int = 0) -> list[int]:
    return tuned.model.blocks[block].vitune.points.middle.sct.index.tolist()


def test_the_plain_backbone_is_measured_whatever_else_is_applied():
    method = vitune.SCT(channels=5)
    chosen = salient_channels(backbone("plain"), batches(), method)
    tuned = vitune.apply(backbone("plain"), [vitune.SSF(init_std=0.5), method])
    assert index_of(tuned) == [0, 1, 2, 3, 4]
    tuned.policies[0].prepare(batches())
    assert index_of(tuned) == chosen["blocks.0.middle"].tolist() != [0, 1, 2, 3, 4]
    assert index_of(tuned, 1) == chosen["blocks.1.middle"].tolist()


def test_channels_are_chosen_once(tmp_path):
    tuned = vitune.apply(backbone("plain"), vitune.SCT(channels=5))
    tuned.policies[0].prepare(batches())
    first = index_of(tuned)
    others = [(images("plain", batch=6, seed=9) * torch.randn(6, 3, 1, 1), LABELS)]
    tuned.policies[0].prepare(others)
    assert index_of(tuned) == first
    tuned.save(tmp_path / "adapter")
    again = vitune.load(tmp_path / "adapter", model=backbone("plain"))
    assert index_of(again) == first
    again.policies[0].prepare(others)
    assert index_of(again) == first
    fresh = vitune.apply(backbone("plain"), vitune.SCT(channels=5))
    assert fresh.policies[0].state_dict() == {"chosen": False}
    fresh.policies[0].load_state_dict(tuned.policies[0].state_dict())
    fresh.policies[0].prepare(others)
    assert index_of(fresh) == [0, 1, 2, 3, 4]


def test_training_chooses_from_images_without_augmentation(tmp_path):
    data = small_data(12, augment=True)
    still = dataclasses.replace(data, unaugmented=small_data(12).train)
    method = vitune.SCT(channels=4)
    tuned = vitune.apply(small_model(), method)
    fit(tuned, still, small_config(epochs=1), directory=tmp_path)
    items = [still.unaugmented[0, i] for i in range(12)]
    pictures = torch.stack([image for image, _, _ in items])
    labels = torch.tensor([label for _, label, _ in items])
    chosen = salient_channels(small_model(), [(pictures, labels)], method)
    assert index_of(tuned) == chosen["blocks.0.middle"].tolist()


def test_channels_can_be_given():
    tuned = vitune.apply(backbone("plain"), vitune.SCT(channels=2, mode="qkv"))
    roles = [f"blocks.{i}.attn.{name}" for i in range(DEPTH) for name in "qv"]
    given = {role: torch.tensor([i, 9 + i]) for i, role in enumerate(roles)}
    set_channels(tuned, given)
    assert tuned.model.blocks[1].attn.qkv.vitune.sct.v.index.tolist() == [3, 12]
    tuned.policies[0].prepare([])  # would complain about missing images if it chose
    for wrong in ([9, 1], [1, 1], [1, 2, 3], [-1, 4], [4, 32]):
        with pytest.raises(
            ConfigError, match=r"'blocks.0.attn.q' needs 2 different channels below 32 in ascending order"
        ):
            set_channels(tuned, {**given, roles[0]: torch.tensor(wrong)})
    del given[roles[1]]
    with pytest.raises(ConfigError, match=r"given for every map and no other; see 'blocks.0.attn.v'"):
        set_channels(tuned, given)
    with pytest.raises(ConfigError, match="sct is not among the methods of this model"):
        set_channels(vitune.apply(backbone("plain"), vitune.LoRA(rank=1)), {})


def test_other_channels_pass_untouched():
    tuned = randomise(vitune.apply(backbone("plain"), vitune.SCT(channels=3)))
    layer = tuned.model.get_submodule("blocks.0.vitune.points.middle.sct")
    layer.index.copy_(torch.tensor([1, 4, 30]))
    x = torch.randn(2, 5, 32)
    y = layer(x)
    changed = (y != x).any(0).any(0).nonzero()[:, 0].tolist()
    assert changed == [1, 4, 30]
    u = x[..., [1, 4, 30]]
    torch.testing.assert_close(y[..., [1, 4, 30]], u + F.linear(u, layer.weight, layer.bias))


@pytest.mark.parametrize(
    ("scale", "scale_on", "expected"),
    [(1.0, "branch", 1.0), (0.25, "branch", 1.0), (0.25, "input", 0.25)],
)
def test_factor_on_branch_or_input(scale, scale_on, expected):
    method = vitune.SCT(channels=3, scale=scale, scale_on=scale_on)
    layer = randomise(vitune.apply(backbone("plain"), method)).model.get_submodule(
        "blocks.0.vitune.points.middle.sct"
    )
    u = torch.randn(7, 3)
    v = u @ layer.weight.T + layer.bias
    torch.testing.assert_close(u + layer.change(u), expected * u + (scale if scale_on == "branch" else 1) * v)


def saved(channels: int, mode: str) -> int:
    tuned = vitune.apply(backbone("plain"), vitune.SCT(channels=channels, mode=mode), check=False)
    with weightless_copy(tuned.model) as twin:
        pictures, labels = torch.zeros(2, 3, 32, 32), torch.zeros(2, dtype=torch.long)
        count = saved_activation_bytes(
            twin, lambda net: F.cross_entropy(net(pictures), labels), ignore=[labels]
        )
    return count.bytes


@pytest.mark.parametrize(("mode", "maps"), [("attn", 1), ("mlp", 1), ("qkv", 2)])
def test_only_the_salient_channels_are_kept_for_the_backward(mode, maps):
    tokens, more, maps = 2 * 5, 6, DEPTH * maps
    index = 8 * maps * more if mode == "qkv" else 0  # joined for the call, beside the buffers
    assert saved(4 + more, mode) - saved(4, mode) == 4 * maps * tokens * more + index


def test_blocks_of_a_backbone_with_stages():
    model = timm.create_model(
        "swin_tiny_patch4_window7_224",
        img_size=64,
        embed_dim=8,
        depths=(1, 1, 6, 2),
        num_heads=(1, 1, 2, 2),
        window_size=2,
    )
    found = [site.role for site in sites(anatomy(model), vitune.SCT(channels=4))]
    assert found == [f"blocks.{i}.middle" for i in (5, 6, 7, 8, 9)]
    chosen = salient_channels(
        model, [(torch.randn(3, 3, 64, 64), torch.tensor([0, 1, 0]))], vitune.SCT(channels=4)
    )
    assert [len(index) for index in chosen.values()] == [4] * 5


def test_merging_is_told_by_the_mode():
    assert vitune.SCT.merges is False
    assert [vitune.SCT(mode=mode).merges for mode in ("attn", "mlp", "qkv")] == [False, True, True]
    assert dataclasses.replace(vitune.SCT(mode="mlp"), mode="attn").merges is False


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"channels": 0}, "sct: channels must be at least 1, not 0."),
        ({"mode": "both"}, "sct: mode must be 'attn', 'mlp' or 'qkv', not 'both'."),
        ({"scale": 0.0}, "sct: scale must be a finite number other than 0, not 0.0."),
        ({"scale": float("inf")}, "sct: scale must be a finite number other than 0, not inf."),
        ({"scale_on": "x"}, "sct: scale_on must be 'branch' or 'input', not 'x'."),
        ({"mode": "qkv", "scale": 0.5}, "sct: scale must be 1 with mode=qkv, which has no factor, not 0.5."),
        (
            {"score_where_it_acts": True},
            "sct: score_where_it_acts must be false except with mode=mlp, since the other modes do so anyway, "
            "not True.",
        ),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ConfigError) as caught:
        vitune.SCT(**settings)
    assert str(caught.value) == message


def test_what_does_not_fit_is_refused():
    with pytest.raises(
        UnsupportedBackboneError,
        match=r"channels is 33 and 'blocks.0.middle' has 32; choose 32 or fewer",
    ):
        vitune.apply(backbone("plain"), vitune.SCT(channels=33))
    with pytest.raises(
        NothingMatchedError, match="there is no block 9; this timm-vit backbone has blocks 0 to"
    ):
        vitune.apply(backbone("plain"), vitune.SCT(channels=4, blocks=(1, 9)))
    with pytest.raises(DataError, match="there is no training image to choose the salient channels by"):
        vitune.apply(backbone("plain"), vitune.SCT(channels=4)).policies[0].prepare([])


def test_blocks_can_be_named():
    tuned = vitune.apply(backbone("plain"), vitune.SCT(channels=4, blocks=(1,)))
    assert [edit.role for edit in tuned.costs().edits] == ["blocks.1.middle"]


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("family", ["plain", "no_qkv_bias", "hf"])
def test_merges_together_with_lora_on_the_same_layer(order, family):
    methods = [vitune.SCT(channels=4, mode="qkv"), vitune.LoRA(rank=2)]
    tuned = randomise(vitune.apply(backbone(family), methods if order else methods[::-1]))
    tuned.model.eval()
    with torch.no_grad():
        expected = tuned(images(family))
        merged = vitune.anatomy.logits(tuned.merge(), images(family))
    torch.testing.assert_close(merged, expected, rtol=1e-5, atol=1e-5)
