"""At the start: the same function where promised, the right parameters, the published number of them."""

from __future__ import annotations

import pytest
import torch

from tests.contract.cases import ALL, BY_TEXT, HEADS, gradients, randomise, training_backward, tune
from tests.contract.families import backbone, images
from vitune.anatomy import anatomy, logits
from vitune.methods import parse

each = pytest.mark.parametrize(("text", "family"), ALL)


@each
def test_starts_as_the_plain_model_where_it_says_so(text, family):
    plain, tuned = backbone(family).eval(), tune(text, family)
    tuned.model.eval()
    with torch.no_grad():
        same = torch.equal(tuned(images(family)), logits(plain, images(family)))
    assert same == all(method.starts_at_identity for method in parse(text))


@each
def test_trains_as_many_parameters_as_the_formula_says(text, family):
    plain = backbone(family)
    expected = BY_TEXT[text].count(plain)
    tuned = tune(text, family)
    costs = tuned.costs()
    assert costs.method_parameters == expected
    assert costs.method_parameters == sum(edit.parameters for edit in costs.edits)
    whole_head = sum(p.numel() for n, p in plain.named_parameters() if n.rpartition(".")[0] in HEADS)
    head = BY_TEXT[text].head
    assert costs.head_parameters == (whole_head if head is None else head(plain))
    assert costs.trained_parameters == sum(p.numel() for p in tuned.model.parameters() if p.requires_grad)


@each
def test_every_trained_parameter_gets_a_gradient_and_no_other(text, family):
    tuned = randomise(tune(text, family))
    tuned.model.train()
    torch.manual_seed(0)
    found = gradients(tuned, images(family))
    assert found.keys() == tuned.trainable().keys()
    assert all(gradient.isfinite().all() for gradient in found.values())
    assert all(p.grad is None for p in tuned.model.parameters() if not p.requires_grad)


@each
def test_a_few_steps_change_what_is_declared_and_nothing_else(text, family):
    plain = {name: tensor.clone() for name, tensor in backbone(family).state_dict().items()}
    tuned = tune(text, family)
    tuned.model.train()
    before = {name: tensor.clone() for name, tensor in tuned.model.state_dict().items()}
    optimizer = torch.optim.AdamW(tuned.parameters(), lr=1e-2)
    for step in range(4):
        torch.manual_seed(step)
        training_backward(tuned, images(family, seed=step))
        optimizer.step()
    after = tuned.model.state_dict()
    # What several layers share counts under its first name.
    own = {name for name, _ in (*tuned.model.named_parameters(), *tuned.model.named_buffers())}
    changed = {name for name in own & after.keys() if not torch.equal(after[name], before[name])}
    # Buffers of new layers (indices, masks) belong to the state, but a step need not change them.
    assert tuned.trainable().keys() <= changed <= tuned.state().keys()
    assert [name for name in after if ".vitune." not in f".{name}"] == list(plain)
    assert all(torch.equal(after[name], tensor) for name, tensor in plain.items() if name not in changed)


@each
def test_eval_changes_no_state(text, family):
    tuned = randomise(tune(text, family))
    before = {name: tensor.clone() for name, tensor in tuned.model.state_dict().items()}
    tuned.model.eval()
    with torch.no_grad():
        first = tuned(images(family))
        tuned.model.train()
        tuned.model.eval()
        second = tuned(images(family))
    after = tuned.model.state_dict()
    assert torch.equal(first, second)
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@each
def test_edits_are_where_the_anatomy_says(text, family):
    tuned = tune(text, family)
    before = anatomy(backbone(family))
    assert anatomy(tuned.model).operators == before.operators
    assert anatomy(tuned.model).blocks == before.blocks
