"""SPT: what is trained after the allocation, exactly and leanly."""

from __future__ import annotations

import copy
import dataclasses
import json

import pytest
import torch
from tests.contract.cases import randomise
from tests.contract.families import backbone, images
from torch import nn
from torch.nn import functional as F

import vitune
from vitune.errors import ConfigError, NothingMatchedError, UnsupportedBackboneError
from vitune.measure import saved_activation_bytes
from vitune.methods.spt import changed_linear as lean
from vitune.methods.spt.structured import drop_path, dropped_linear

DEPTH = len(backbone("plain").blocks)
LABELS = torch.tensor([0, 2])
MIXED = vitune.SPT(
    rank=2,
    dropout=0.0,
    drop_path=0.0,
    structured=("attn.v", "mlp.out"),
    vectors=("attn.q.bias", "norm1.weight", "mlp.in.bias"),
    sparse=("attn.q.weight:6", "attn.k.weight:1000", "mlp.in.weight:7", "attn.v.bias:3", "attn.out.weight:5"),
)


def loss_of(tuned, family="plain"):
    return F.cross_entropy(tuned(images(family)), LABELS)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"budget": 0}, "spt: budget must be at least 1, not 0."),
        ({"rank": 0}, "spt: rank must be at least 1, not 0."),
        ({"batches": 0}, "spt: batches must be at least 1, not 0."),
        ({"batch_size": 0}, "spt: batch_size must be at least 1, not 0."),
        ({"alpha": 0.0}, "spt: alpha must be a positive number, not 0.0."),
        ({"beta": float("nan")}, "spt: beta must be a positive number, not nan."),
        ({"dropout": 1.0}, "spt: dropout must be in [0, 1), not 1.0."),
        ({"drop_path": -0.1}, "spt: drop_path must be in [0, 1), not -0.1."),
        ({"structure": "ssf"}, "spt: structure must be 'lora' or 'adapter', not 'ssf'."),
        ({"init": "zero"}, "spt: init must be 'reference' or 'zero_up', not 'zero'."),
        ({"unit": 0.0}, "spt: unit must be a positive number or none, not 0.0."),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ConfigError) as caught:
        vitune.SPT(**settings)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({}, ConfigError, r"spt: where to spend the budget depends on the data; `vitune train` finds out"),
        (
            {"sparse": ("attn.q.weight",)},
            ConfigError,
            "sparse must be TENSOR:NUMBER for each tensor, not 'attn.q.w",
        ),
        ({"sparse": ("attn.q.weight:0",)}, ConfigError, "sparse must be TENSOR:NUMBER"),
        (
            {"sparse": ("attn.q.bias:33",)},
            ConfigError,
            "'blocks.0.attn.q.bias' has 32 entries, and 33 of them are",
        ),
        (
            {"vectors": ("attn.q.weight",)},
            ConfigError,
            "'blocks.0.attn.q.weight' is a matrix; only vectors train whole",
        ),
        (
            {"vectors": ("attn.q.bais",)},
            NothingMatchedError,
            "'attn.q.bais' is no tensor .* mean 'attn.q.bias'",
        ),
        (
            {"vectors": ("patch_embed.bias",)},
            NothingMatchedError,
            "'patch_embed.bias' is no tensor that competes",
        ),
        ({"structured": ("attn.qq",)}, NothingMatchedError, "no role 'attn.qq'"),
        (
            {"structured": ("attn.qkv",)},
            UnsupportedBackboneError,
            "'blocks.0.attn.qkv' is no single matrix inside a b",
        ),
        (
            {"structured": ("norm1",)},
            UnsupportedBackboneError,
            "modules go on attn.q, attn.k, attn.v, attn.out, mlp.in",
        ),
        (
            {"structured": ("attn.q",), "sparse": ("attn.q.weight:3",)},
            ConfigError,
            "'blocks.0.attn.q.weight' has a module and is to train entry by entry; choose one",
        ),
        (
            {"vectors": ("norm1.bias",), "sparse": ("blocks.0.norm1.bias:3",)},
            ConfigError,
            "'blocks.0.norm1.bias' trains whole and is to train entry by entry",
        ),
        (
            {"vectors": ("attn.k.bias",), "sparse": ("attn.k.bias:3",)},
            ConfigError,
            "'blocks.0.attn.k.bias' trains whole and is to train entry by entry",
        ),
    ],
)
def test_what_cannot_be_applied(settings, error, message):
    model = backbone("plain")
    with pytest.raises(error, match=message):
        vitune.apply(model, vitune.SPT(**settings))
    assert not any(".vitune." in name for name in model.state_dict())


def dense_twin(tuned):
    """A plain model with the tuned weights, all of which get gradients."""
    return copy.deepcopy(tuned).merge()


@pytest.mark.parametrize("family", ["plain", "hf"])
def test_gradients_are_the_dense_ones_at_the_selected_places(family):
    tuned = randomise(vitune.apply(backbone(family), MIXED))
    tuned.model.eval()
    plain = dense_twin(tuned)
    torch.testing.assert_close(
        vitune.tuned.logits(plain, images(family)), tuned(images(family)), atol=1e-5, rtol=1e-5
    )
    loss_of(tuned, family).backward()
    F.cross_entropy(vitune.tuned.logits(plain, images(family)), LABELS).backward()
    seen = 0
    for name, module in tuned.model.named_modules():
        if not hasattr(module, "values") or not isinstance(module.values, nn.Parameter):
            continue
        path, tensor = name.partition(".vitune.")[0], name.rpartition(".")[2]
        dense = plain.get_parameter(f"{path}.{tensor}").grad.flatten()[module.index]
        torch.testing.assert_close(module.values.grad, dense, rtol=1e-4, atol=1e-6)
        seen += 1
    assert seen == 5 * len(tuned.anatomy.blocks)
    if family == "plain":
        shift = tuned.model.blocks[0].attn.qkv.vitune.spt_sparse.q.shift
        torch.testing.assert_close(shift.grad, plain.blocks[0].attn.qkv.bias.grad[:32], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("entries", "kept"), [(3, False), (3, True), (40, False), (500, False), (500, True)])
@pytest.mark.parametrize("cost", [1, 10**6])
def test_changed_linear_is_a_linear_layer_with_changed_weight(entries, kept, cost, monkeypatch):
    monkeypatch.setattr(lean, "GATHER_COST", cost)  # both ways of summing
    generator = torch.Generator().manual_seed(0)
    x, weight = (
        torch.randn(size, generator=generator, dtype=torch.double) for size in ((2, 5, 16), (48, 16))
    )
    bias, values = (torch.randn(n, generator=generator, dtype=torch.double) for n in (48, entries))
    # All in the rows from 16 on.
    index = (256 + torch.randperm(32 * 16, generator=generator)[:entries]).to(torch.int32)
    leaves = [tensor.requires_grad_() for tensor in (x, bias, values)]
    y = lean.changed_linear(x, weight, bias, values, index, (48, 16), (16, 48), kept)
    full = weight.flatten().index_add(0, index, values).view(48, 16)
    expected = F.linear(x, full, bias)
    torch.testing.assert_close(y, expected)
    downstream = torch.randn(y.shape, generator=generator, dtype=torch.double)
    ours = torch.autograd.grad((y * downstream).sum(), leaves)
    theirs = torch.autograd.grad((expected * downstream).sum(), leaves)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


def saved(*, vectors=("norm1.bias",), **settings):
    """Bytes kept for the backward of two images of five tokens."""
    tuned = vitune.apply(
        backbone("plain"), vitune.SPT(vectors=vectors, dropout=0.0, drop_path=0.0, **settings)
    )
    return saved_activation_bytes(
        tuned.model.train(), lambda model: F.cross_entropy(model(images("plain")), LABELS)
    ).bytes


def test_private_tensors_are_what_they_must_be():
    tokens, nothing = 2 * 5, saved()
    # The few selected columns of the input, at 4 bytes a number.
    assert saved(sparse=("mlp.out.weight:7",)) - nothing == DEPTH * tokens * 7 * 4
    # Never more than the input itself.
    assert saved(sparse=("mlp.out.weight:900",)) - nothing == DEPTH * tokens * 128 * 4
    assert saved(sparse=("mlp.in.weight:900",)) - nothing == DEPTH * tokens * 32 * 4
    # Attention keeps the input of its output projection anyway; single biases need nothing.
    assert saved(sparse=("attn.out.weight:7", "attn.out.bias:3", "mlp.in.bias:4")) == nothing
    # One input for q, k and v together; their values and places are put together once.
    together = saved(sparse=("attn.q.weight:30", "attn.k.weight:30", "attn.v.weight:30"))
    assert together - nothing == DEPTH * (tokens * 32 * 4 + 90 * (4 + 4))
    # A LoRA and single entries of one layer share its input.
    lora = saved(structured=("attn.v",), rank=2)
    assert saved(structured=("attn.v",), sparse=("attn.q.weight:40",), rank=2) == lora


def test_no_copy_of_a_frozen_weight_is_kept():
    tuned = vitune.apply(backbone("plain"), vitune.SPT(sparse=("mlp.in.weight:900", "attn.q.weight:900")))
    kept = saved_activation_bytes(tuned.model, lambda model: F.cross_entropy(model(images("plain")), LABELS))
    assert not [t for t in kept.tensors if t.shape in ((128, 32), (96, 32), (32, 128))]


def test_dropout_keeps_a_byte_per_number():
    x = torch.randn(4, 6, 32, dtype=torch.double, requires_grad=True)
    weight, layer = torch.randn(2, 32, dtype=torch.double, requires_grad=True), nn.Identity()
    torch.manual_seed(0)
    keep = torch.rand(x.shape) >= 0.25
    expected = F.linear(x * keep / 0.75, weight)
    torch.manual_seed(0)
    y = dropped_linear(x, weight, None, 0.25, True)
    torch.testing.assert_close(y, expected)
    for one, other in zip(
        torch.autograd.grad(y.square().sum(), (x, weight)),
        torch.autograd.grad(expected.square().sum(), (x, weight)),
        strict=True,
    ):
        torch.testing.assert_close(one, other)
    kept = saved_activation_bytes(
        layer, lambda _: dropped_linear(x, weight, None, 0.25, True).sum(), ignore=[x, weight]
    )
    assert kept.bytes == x.numel()
    assert torch.equal(dropped_linear(x, weight, None, 0.25, False), F.linear(x, weight))


def test_branches_are_dropped_per_image_and_part():
    torch.manual_seed(0)
    branch = torch.ones(64, 3, 2, 5)
    dropped = drop_path(branch, 0.25, True, per_part=True)
    assert dropped.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    one_number = dropped[:, :1, :, :1]
    assert torch.equal(dropped, one_number.expand_as(dropped))
    assert not torch.equal(one_number[:, :, 0], one_number[:, :, 1])
    assert drop_path(branch, 0.25, False) is branch
    assert drop_path(branch, 0.0, True) is branch


def test_module_on_the_output_projection_has_no_dropout():
    for structure, key in (("lora", "spt_lora"), ("adapter", "spt_adapter")):
        method = vitune.SPT(
            structure=structure, structured=("attn.out", "mlp.in"), dropout=0.3, drop_path=0.2
        )
        block = vitune.apply(backbone("plain"), method).model.blocks[0]
        out, inner = getattr(block.attn.proj.vitune, key), getattr(block.mlp.fc1.vitune, key)
        if structure == "adapter":
            out, inner = out.out, inner.in_
        assert (out.dropout, inner.dropout) == (0.0, 0.3)
        assert (out.drop_path, inner.drop_path) == (0.2, 0.2)


def test_starts():
    drawn = vitune.SPT(structured=("attn.v",))
    at_zero = dataclasses.replace(drawn, init="zero_up")
    ups = [
        vitune.apply(backbone("plain"), m).model.blocks[0].attn.qkv.vitune.spt_lora.v.up
        for m in (drawn, at_zero)
    ]
    assert 0.015 < ups[0].std() < 0.025
    assert not ups[1].any()
    assert (drawn.starts_at_identity, at_zero.starts_at_identity) == (False, True)
    assert vitune.SPT(sparse=("attn.q.weight:3",)).starts_at_identity
    adapter = vitune.SPT(structure="adapter", structured=("mlp.out",))
    layer = vitune.apply(backbone("plain"), adapter).model.blocks[0].mlp.fc2.vitune.spt_adapter.out
    assert 0.015 < layer.up.weight.std() < 0.025
    assert not layer.up.bias.any()
    assert not layer.down.bias.any()


def test_adapters_read_the_output_but_the_input_at_the_output_projection():
    method = vitune.SPT(structure="adapter", structured=("attn.out", "mlp.in"), rank=3)
    tuned = randomise(vitune.apply(backbone("plain"), method))
    tuned.model.eval()
    block = tuned.model.blocks[0]
    x = torch.randn(2, 5, 32)
    for layer, adapter, parallel in (
        (block.attn.proj, block.attn.proj.vitune.spt_adapter.out, True),
        (block.mlp.fc1, block.mlp.fc1.vitune.spt_adapter.in_, False),
    ):
        z = F.linear(x, layer.weight, layer.bias)
        expected = z + adapter.up(F.gelu(adapter.down(x if parallel else z)))
        torch.testing.assert_close(layer(x), expected)


def test_adapters_without_biases():
    method = vitune.SPT(structure="adapter", structured=("attn.q", "attn.v"), rank=3, adapter_bias=False)
    costs = vitune.apply(backbone("plain"), method).costs()
    assert costs.method_parameters == DEPTH * 2 * (2 * 3 * 32) + 32


@pytest.mark.parametrize("family", ["plain", "rms_swiglu"])
def test_entries_of_norms_change_the_norm(family):
    names = ("norm1.weight:3", "norm2.bias:2") if family == "plain" else ("norm1.weight:3",)
    tuned = randomise(vitune.apply(backbone(family), vitune.SPT(sparse=names)))
    expected = tuned(images(family))
    plain = backbone(family)
    merged = copy.deepcopy(tuned).merge()
    torch.testing.assert_close(merged(images(family)), expected, rtol=1e-5, atol=1e-5)
    assert int((merged.blocks[0].norm1.weight != plain.blocks[0].norm1.weight).sum()) == 3


@pytest.mark.parametrize("others", ["lora(rank=2),{}", "ssf,{}", "{},ssf", "{},lora(rank=2)"])
def test_other_edits_of_the_same_layers_are_kept(others):
    spt = "spt(rank=2,structured=attn.v,sparse=attn.q.weight:40+mlp.in.weight:6+attn.k.bias:3,vectors=attn.q.bias)"
    tuned = randomise(vitune.apply(backbone("plain"), vitune.methods.parse(others.format(spt))))
    tuned.model.eval()
    expected = tuned(images("plain"))
    loss_of(tuned).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in tuned.parameters())
    torch.testing.assert_close(tuned.merge()(images("plain")), expected, rtol=1e-5, atol=1e-5)


def test_adapters_stay_when_the_rest_is_merged():
    method = vitune.SPT(
        structure="adapter", structured=("attn.v",), sparse=("attn.q.weight:9",), vectors=("attn.k.bias",)
    )
    assert not method.merges
    assert vitune.SPT(structure="adapter", sparse=("attn.q.weight:9",)).merges
    tuned = randomise(vitune.apply(backbone("plain"), method))
    tuned.model.eval()
    expected = tuned(images("plain"))
    vitune.adapters.merge(tuned, partial=True)
    assert {edit.edit for edit in tuned.costs().edits if "attn" in edit.role} == {"spt_adapter"}
    torch.testing.assert_close(tuned(images("plain")), expected, rtol=1e-5, atol=1e-5)


def test_autocast_gives_the_precision_of_the_layer():
    tuned = randomise(vitune.apply(backbone("plain"), MIXED))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = tuned.model.blocks[0].mlp.fc1(torch.randn(2, 5, 32))
        loss = loss_of(tuned)
    assert out.dtype == torch.bfloat16
    loss.backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in tuned.parameters())
    torch.testing.assert_close(loss, loss_of(tuned), rtol=0.05, atol=0.05)


def test_the_adapter_file_holds_places_and_settings_are_json(tmp_path):
    pictures = images("plain")
    method = vitune.SPT(budget=900, rank=2, batches=1, dropout=0.0).resolved(
        backbone("plain"), [(pictures, LABELS)]
    )
    assert method.sparse
    tuned = randomise(vitune.apply(backbone("plain"), method))
    tuned.model.eval()
    indices = {name: b for name, b in tuned.state().items() if name.endswith(".index")}
    assert indices
    assert all(index.dtype == torch.int32 for index in indices.values())
    tuned.save(tmp_path)
    again = vitune.load(tmp_path, model=backbone("plain"))
    assert torch.equal(again(pictures), tuned(pictures))
    assert all(torch.equal(again.state()[name], index) for name, index in indices.items())
    settings = json.loads(json.dumps(method.settings()))
    assert "positions" not in settings
    assert vitune.SPT.from_settings(settings) == method
    spread = vitune.apply(
        backbone("plain"), vitune.SPT.from_settings(settings)
    )  # no places known: evenly spread
    assert not all(torch.equal(spread.state()[name], index) for name, index in indices.items())


def test_places_outlive_a_change_of_other_settings():
    method = vitune.SPT(budget=900, rank=2).resolved(backbone("plain"), [(images("plain"), LABELS)])
    other = dataclasses.replace(method, dropout=0.0)
    one, two = (vitune.apply(backbone("plain"), m).state() for m in (method, other))
    assert all(torch.equal(one[name], two[name]) for name in one if name.endswith(".index"))


@pytest.mark.parametrize("dropout", [0.0, 0.25])
def test_adapter_that_keeps_its_output_computes_the_same(dropout):
    method = vitune.SPT(structure="adapter", structured=("mlp.in",), rank=3, dropout=dropout, drop_path=0.3)
    tuned = randomise(vitune.apply(backbone("plain"), method))
    layer = tuned.model.blocks[0].mlp.fc1.vitune.spt_adapter.double()
    x, z = (torch.randn(8, 5, width, dtype=torch.double, requires_grad=True) for width in (32, 128))
    leaves = [z, *layer.parameters()]

    def run(output_is_kept):
        layer.output_is_kept = output_is_kept
        torch.manual_seed(0)  # the masks are drawn in the same order
        y = layer(x, z)
        return y, torch.autograd.grad(y.square().sum(), leaves)

    y, gradients = run(True)
    expected, theirs = run(False)
    torch.testing.assert_close(y, expected)
    for one, other in zip(gradients, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_adapter_in_front_of_an_activation_keeps_its_few_numbers_only():
    few = {"structure": "adapter", "rank": 3}
    inside, behind = saved(structured=("mlp.in",), **few), saved(structured=("mlp.out",), **few)
    tokens, nothing = 2 * 5, saved()
    assert inside - nothing == DEPTH * tokens * 3 * 4
    assert behind - nothing == DEPTH * tokens * (32 + 3 + 3) * 4  # its input, and both sides of the GELU
