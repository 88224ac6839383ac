"""SPT: what competes, how it is scored and ranked, and where a budget goes."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import timm
import torch
from tests.contract.families import backbone, images
from torch.nn import functional as F

import vitune
from vitune.anatomy import anatomy
from vitune.errors import ConfigError, TrainingError, UnsupportedBackboneError
from vitune.methods import DataNeeds
from vitune.methods.spt import (
    Rules,
    allocate,
    candidates,
    rank_entries,
    sensitivity,
    sweep,
    sweep_taus,
    sweep_unit,
)

DEPTH = len(backbone("plain").blocks)
LABELS = torch.tensor([0, 2, 1, 0])


def batches(family: str = "plain"):
    pictures = images(family, batch=4)
    return [(pictures[:3], LABELS[:3]), (pictures[3:], LABELS[3:])]


def test_candidates_of_a_fused_layer_are_its_roles():
    names = [c.name for c in candidates(anatomy(backbone("plain")))]
    block = ["norm1.weight", "norm1.bias", "attn.q.weight", "attn.q.bias", "attn.k.weight", "attn.k.bias"]
    block += [
        "attn.v.weight",
        "attn.v.bias",
        "attn.out.weight",
        "attn.out.bias",
        "norm2.weight",
        "norm2.bias",
    ]
    block += ["mlp.in.weight", "mlp.in.bias", "mlp.out.weight", "mlp.out.bias"]
    assert names == [f"blocks.{i}.{name}" for i in range(DEPTH) for name in block] + [
        "norm.weight",
        "norm.bias",
    ]


@pytest.mark.parametrize("family", ["hf", "glu", "rms_swiglu", "siglip", "no_qkv_bias"])
def test_candidates_have_the_shapes_of_the_model(family):
    found = anatomy(backbone(family))
    for candidate in candidates(found):
        parameter = found.model.get_parameter(candidate.path)
        part = parameter if candidate.rows is None else parameter[candidate.rows]
        assert part.shape == candidate.shape
        assert not candidate.name.startswith(("patch_embed", "head"))
        assert candidate.is_matrix == (parameter.dim() == 2)


def test_costs_of_modules_at_full_size():
    width = {"attn.q": (768, 768), "mlp.in": (3072, 768), "mlp.out": (768, 3072)}
    found = {c.role.split(".", 2)[2]: c for c in candidates(anatomy(backbone("plain"))) if c.is_matrix}
    for role, lora, adapter in (
        ("attn.q", 12_288, 13_064),
        ("mlp.in", 30_720, 52_232),
        ("mlp.out", 30_720, 13_064),
    ):
        object.__setattr__(found[role], "shape", width[role])
        assert found[role].module_parameters("lora", 8) == lora
        assert found[role].module_parameters("adapter", 8) == adapter


def test_sensitivity_is_the_sum_of_squared_batch_gradients():
    model = backbone("plain").eval()
    expected = {}
    for pictures, labels in batches():
        model.zero_grad()
        F.cross_entropy(model(pictures), labels).backward()
        for name, parameter in model.named_parameters():
            expected[name] = expected.get(name, 0) + parameter.grad.square()
    scores = sensitivity(backbone("plain"), batches())
    torch.testing.assert_close(scores["blocks.1.mlp.out.weight"], expected["blocks.1.mlp.fc2.weight"])
    torch.testing.assert_close(scores["blocks.0.attn.v.weight"], expected["blocks.0.attn.qkv.weight"][64:])
    torch.testing.assert_close(scores["norm.bias"], expected["norm.bias"])
    first = sensitivity(backbone("plain"), batches(), most=1)
    assert (first["norm.bias"] < scores["norm.bias"]).all()


def test_the_pass_leaves_the_model_as_it_was():
    model = backbone("plain")
    model.blocks[0].eval()
    model.head.weight.requires_grad_(False)
    gradient = model.norm.weight.grad = torch.ones(32)
    before = copy.deepcopy(model.state_dict())
    torch.manual_seed(3)
    state = torch.get_rng_state()
    sensitivity(model, batches(), noise=True)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert model.norm.weight.grad is gradient
    assert model.head.bias.grad is None
    assert not model.head.weight.requires_grad
    assert model.norm.weight.requires_grad
    assert not model.blocks[0].training
    assert model.blocks[1].training


def test_noise_is_the_backbones_own():
    small = {"img_size": 32, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 3}
    model = timm.create_model("vit_tiny_patch16_224", **small, drop_path_rate=0.5)
    quiet, again = (sensitivity(model, batches())["norm.bias"] for _ in range(2))
    noisy, same = (sensitivity(model, batches(), noise=True, seed=4)["norm.bias"] for _ in range(2))
    assert torch.equal(quiet, again)
    assert torch.equal(noisy, same)
    assert not torch.equal(quiet, noisy)


def test_passes_that_cannot_go_on():
    model = backbone("plain")
    with pytest.raises(TrainingError, match="spt: the sensitivity pass got no batch; give it at least one"):
        sensitivity(model, [])
    broken = [(torch.full((1, 3, 32, 32), float("nan")), LABELS[:1])]
    with pytest.raises(TrainingError, match="spt: the loss of batch 1 of the sensitivity pass is nan"):
        sensitivity(model, broken)
    assert all(p.grad is None for p in model.parameters())
    torch.nn.init.zeros_(model.head.weight)
    with pytest.raises(TrainingError, match="every sensitivity is zero, since no gradient passes the head"):
        sensitivity(model, batches())


def scores(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    found = candidates(anatomy(backbone("plain")))
    return {c.name: torch.rand(c.shape, generator=generator) ** (3 + i % 5) for i, c in enumerate(found)}


@pytest.mark.parametrize("most", [1, 50, 700, 10**6])
def test_ranking_is_one_global_top_list(most):
    values = scores()
    ranking = rank_entries(values, most)
    flat = torch.cat([value.flatten() for value in values.values()])
    expected = flat.argsort(descending=True, stable=True)[:most]
    starts = torch.tensor([0, *ranking.sizes]).cumsum(0)
    assert torch.equal(starts[ranking.tensor.long()] + ranking.index, expected)
    assert torch.equal(ranking.score, flat[expected])


def test_of_equal_entries_the_first_are_taken():
    ranking = rank_entries({"a": torch.tensor([1.0, 2.0, 1.0]), "b": torch.tensor([1.0, 3.0])}, 4)
    assert (ranking.tensor.tolist(), ranking.index.tolist()) == ([1, 0, 0, 0], [1, 1, 0, 2])
    assert ranking.counts(torch.tensor([1, 3, 9])).tolist() == [[0, 1], [2, 1], [3, 1]]
    assert ranking.positions("a", 4).tolist() == [0, 1, 2]


def test_sweep_is_what_counting_each_tau_gives():
    values, found = scores(), candidates(anatomy(backbone("plain")))
    flat = torch.cat([value.flatten() for value in values.values()])
    rules = Rules(rank=2, alpha=3.0, beta=4.0, fixed=32)
    taus = sweep_taus(4000)
    tried = sweep(rank_entries(values, taus[-1]), found, rules, taus)
    for step in (0, 7, 40, 78):
        threshold = flat.sort(descending=True).values[taus[step] - 1]
        structured = unstructured = 0
        for candidate in found:
            selected = int((values[candidate.name] >= threshold).sum())
            assert tried.counts[step, found.index(candidate)] == selected
            cost = candidate.module_parameters("lora", 2) if candidate.is_matrix else candidate.numel
            whole = selected >= cost / (3.0 if candidate.is_matrix else 4.0)
            structured, unstructured = structured + whole * cost, unstructured + (not whole) * selected
        assert (tried.structured[step], tried.unstructured[step]) == (structured, unstructured)
        assert tried.total[step] == structured + unstructured + 32


def test_taus_are_rounded_up_in_double_precision():
    taus = sweep_taus(1e6)
    assert (len(taus), taus[0], taus[-1]) == (79, 20_000, 1_580_000)
    assert [taus[i - 1] for i in (35, 41, 57, 70)] == [700_001, 820_001, 1_140_001, 1_400_001]


def test_the_unit_grows_with_the_backbone_and_the_budget():
    with torch.device("meta"):
        found = candidates(anatomy(timm.create_model("vit_base_patch16_224")))
    assert sum(candidate.numel for candidate in found) == 85_056_000
    assert sweep_unit(found, 400_000) == 1e6
    assert sweep_unit(found, 5_000_000) == 5e6
    assert sweep_unit(found[:16], 1) == pytest.approx(1e6 * 7_087_872 / 85_056_000)


def test_options_of_the_allocation():
    values, found = scores(), candidates(anatomy(backbone("plain")))
    ranking = rank_entries(values, 4000)

    def at(**rules):
        return allocate(ranking, found, 1500, Rules(rank=2, alpha=3.0, beta=30.0, **rules), unit=2000)

    plain = at()
    assert plain.vectors
    assert plain.structured
    assert sum(len(places) for places in plain.positions.values()) == plain.unstructured_parameters
    assert plain.total == plain.structured_parameters + plain.unstructured_parameters
    assert sum(plain.counts.values()) == plain.tau
    only = at(structured_only=True)
    assert (only.unstructured_parameters, only.positions) == (0, {})
    entries = at(structured_vectors=False)
    assert entries.vectors == ()
    assert any(name.endswith("bias") and len(places) for name, places in entries.positions.items())


def test_a_budget_that_cannot_be_reached_names_the_nearest():
    values, found = scores(), candidates(anatomy(backbone("plain")))
    ranking = rank_entries(values, 4000)
    totals = sweep(ranking, found, Rules(), sweep_taus(2000)).total.unique()
    with pytest.raises(ConfigError) as caught:
        allocate(ranking, found, 10, Rules(), unit=2000)
    assert str(caught.value) == (
        f"spt: a budget of 10 parameters cannot be reached: the nearest totals are {totals[0]:,} and {totals[1]:,}; "
        "choose one of them, or a smaller unit."
    )
    assert allocate(ranking, found, int(totals[0]), Rules(), unit=2000).total == totals[0]


@pytest.mark.parametrize("family", ["plain", "hf", "no_qkv_bias", "gap"])
def test_resolved_spends_about_the_budget(family):
    model = backbone(family)
    method = vitune.SPT(budget=2500, rank=2, batch_size=3, batches=2)
    assert method.needs_data == DataNeeds(batches=2, batch_size=3)
    resolved = method.resolved(model, batches())
    assert resolved.needs_data is None
    assert resolved.budget == 2500
    assert resolved.resolved(model, []) is resolved
    tuned = vitune.apply(model, resolved)
    assert 0.5 * 2500 < tuned.costs().method_parameters <= 1.5 * 2500


def test_entries_of_norms_count_and_train_on_demand():
    model = backbone("plain")
    method = vitune.SPT(budget=300, rank=2, beta=1e-3)  # so that no vector trains whole
    without = method.resolved(model, batches())
    given = dataclasses.replace(method, norm_entries=True).resolved(model, batches())
    norms = [text for text in given.sparse if "norm" in text]
    assert norms
    assert [text for text in given.sparse if "norm" not in text] == list(without.sparse)
    extra = sum(int(text.rpartition(":")[2]) for text in norms)
    counts = [vitune.apply(backbone("plain"), m).costs().method_parameters for m in (without, given)]
    assert counts[1] - counts[0] == extra


def test_a_backbone_without_linear_layers_is_refused():
    with pytest.raises(
        UnsupportedBackboneError, match=r"spt: this .* has no linear layer inside its blocks, so nothing"
    ):
        vitune.SPT().resolved(backbone("resnet"), [])


def test_an_empty_allocation_is_refused():
    method = vitune.SPT(budget=40, rank=2, structured_only=True, structured_vectors=False, batches=1)
    with pytest.raises(
        ConfigError, match="with a budget of 40 parameters nothing but the class token would train"
    ):
        method.resolved(backbone("plain"), batches())


@pytest.mark.parametrize(
    ("family", "name"),
    [("plain", "cls_token"), ("hf", "vit.embeddings.cls_token"), ("gap", None)],
)
def test_the_class_token_trains_where_there_is_one(family, name):
    tuned = vitune.apply(backbone(family), vitune.SPT(vectors=("norm1.bias",)))
    tokens = [n for n in tuned.trainable() if "cls_token" in n]
    assert tokens == ([name] if name else [])
