"""Undo, and independence of copies."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tests.contract.cases import ALL, gradients, randomise, tune
from tests.contract.families import backbone, images
from vitune import apply
from vitune.anatomy import logits
from vitune.methods import parse

each = pytest.mark.parametrize(("text", "family"), ALL)


def looks(model: nn.Module) -> tuple[object, ...]:
    """Everything about a model that undoing must bring back, but for the numbers."""
    modules = [
        (name, type(module), module.training, sorted(vars(module))) for name, module in model.named_modules()
    ]
    flags = [(name, p.requires_grad) for name, p in model.named_parameters()]
    return modules, flags, list(model.state_dict())


@each
def test_detach_brings_the_plain_model_back(text, family):
    model = backbone(family)
    list(model.parameters())[3].requires_grad_(False)  # whatever the user had set
    model.eval()
    before, numbers = looks(model), {name: t.clone() for name, t in model.state_dict().items()}
    with torch.no_grad():
        expected = logits(model, images(family))
    tuned = apply(model, parse(text))
    assert looks(model) != before
    assert tuned.detach() is model
    assert looks(model) == before
    assert all(torch.equal(t, numbers[name]) for name, t in model.state_dict().items())
    with torch.no_grad():
        assert torch.equal(logits(model, images(family)), expected)


@each
def test_a_copy_is_independent(text, family):
    tuned = randomise(tune(text, family))
    tuned.model.eval()
    batch = images(family)
    with torch.no_grad():
        expected = tuned(batch)
        other = copy.deepcopy(tuned)
        assert torch.equal(other(batch), expected)
        randomise(other, seed=6)
        assert not torch.equal(other(batch), expected)
        assert torch.equal(tuned(batch), expected)
        of_copy = other(batch)
        randomise(tuned, seed=7)
        assert torch.equal(other(batch), of_copy)
    assert gradients(other, batch).keys() == other.trainable().keys()
    assert all(p.grad is None for p in tuned.model.parameters())
    other.detach()
    names = [name for name, _ in tuned.model.named_modules() if not name.endswith(".held_statistics")]
    assert any(".vitune." in name for name in names) == any(_layers(tuned))
    assert not any(".vitune." in name for name in other.model.state_dict())


def _layers(tuned) -> list[bool]:
    return [edit.edit != "train" for edit in tuned.costs().edits]
