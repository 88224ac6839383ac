"""Any two methods live together on one backbone, or are refused with the reason."""

from __future__ import annotations

import itertools

import pytest
import torch

import vitune
from tests.contract.cases import BY_TEXT, FEW, gradients, randomise
from tests.contract.families import backbone, images
from vitune.adapters import merge, unfoldable
from vitune.errors import CompositionError
from vitune.methods import parse

FAMILY = "plain"
ONE_OF_EACH = list(
    {BY_TEXT[text].names: text for text in reversed(FEW) if len(BY_TEXT[text].names) == 1}.values()
)
PAIRS = [f"{one},{other}" for one, other in itertools.combinations(ONE_OF_EACH, 2)]


def refused(text: str) -> bool:
    one, other = parse(text)
    return other.name in one.conflicts or one.name in other.conflicts


TOGETHER = [text for text in PAIRS if not refused(text)]
APART = [text for text in PAIRS if refused(text)]


def tune(text: str) -> vitune.Tuned:
    return vitune.apply(backbone(FAMILY), parse(text), seed=3)


@pytest.mark.parametrize("text", APART)
def test_refused_with_the_reason_and_nothing_changed(text):
    model = backbone(FAMILY)
    before = list(model.state_dict())
    with pytest.raises(CompositionError, match=r"cannot be combined: .{20,}"):
        vitune.apply(model, parse(text))
    assert list(model.state_dict()) == before


def in_front(tuned: vitune.Tuned) -> tuple[str, ...]:
    blocks = (f"{block.path}." for block in tuned.anatomy.blocks[:-2])
    return ("cls_token", "pos_embed", "patch_embed.", *blocks)


@pytest.mark.parametrize("text", TOGETHER)
def test_both_train(text):
    tuned = randomise(tune(text))
    torch.manual_seed(0)
    found = gradients(tuned, images(FAMILY))
    assert found.keys() == tuned.trainable().keys()
    assert all(gradient.isfinite().all() for gradient in found.values())
    for method in parse(text):
        if method.acts_on_others:  # alone it would act on full fine-tuning
            continue
        alone = vitune.apply(backbone(FAMILY), method).trainable()
        # The other may have a classifier of its own, or keep what lies in front of the last two blocks from training.
        front = ("head.", *(in_front(tuned) if "suffix" in text else ()))
        assert {name for name in alone if not name.startswith(front)} <= found.keys()
        assert not any(name.startswith(front[1:]) for name in found)
    costs = tuned.costs()
    assert costs.method_parameters == sum(edit.parameters for edit in costs.edits)


@pytest.mark.parametrize("text", TOGETHER)
def test_state_moves_to_a_second_model(text):
    tuned = randomise(tune(text))
    other = tune(text)
    other.load_state(tuned.state())
    tuned.model.eval()
    other.model.eval()
    with torch.no_grad():
        assert torch.equal(tuned(images(FAMILY)), other(images(FAMILY)))


@pytest.mark.parametrize("text", TOGETHER)
def test_what_merges_of_them_computes_the_same(text):
    tuned = randomise(tune(text))
    tuned.model.eval()
    with torch.no_grad():
        expected = tuned(images(FAMILY))
        merge(tuned, partial=True)
        torch.testing.assert_close(tuned(images(FAMILY)), expected, rtol=1e-5, atol=1e-5)
    if all(method.merges for method in parse(text)):
        assert not unfoldable(tuned)


@pytest.mark.parametrize("text", TOGETHER)
def test_detaching_gives_the_plain_model_back(text):
    tuned = tune(text)
    tuned.detach()
    plain = backbone(FAMILY).eval()
    assert list(tuned.model.state_dict()) == list(plain.state_dict())
    assert {n: type(m) for n, m in tuned.model.named_modules()} == {
        n: type(m) for n, m in plain.named_modules()
    }


@pytest.mark.parametrize(
    ("one", "other"),
    [("vpt", "lora"), ("spt", "ssf"), ("bi_lora", "e2vpt"), ("ssf", "bi_lora"), ("sct", "lora")],
)
def test_pairs_that_are_asked_for_live_together(one, other):
    together = {frozenset(method.name for method in parse(text)) for text in TOGETHER}
    assert frozenset((one, other)) in together


def test_matrices_in_few_bits_beside_pairs_in_full_precision(tmp_path):
    """SSF with low-bit storage: what has matrices is rounded, the scales and shifts of SSF are not."""
    text = "ssf,adaptformer(bottleneck=4)"
    tuned = randomise(tune(text))
    path = tuned.save(tmp_path / "adapter", store_bits=4)
    loaded = vitune.load(path, model=backbone(FAMILY))
    changed = {
        name for name, tensor in tuned.state().items() if not torch.equal(tensor, loaded.state()[name])
    }
    assert changed
    assert all(name.endswith((".down.weight", ".up.weight")) for name in changed)
    loaded.model.eval()
    with torch.no_grad():
        expected = loaded(images(FAMILY))
        merge(loaded, partial=True)  # the pairs fold; the bottlenecks stay
        torch.testing.assert_close(loaded(images(FAMILY)), expected, rtol=1e-5, atol=1e-5)
