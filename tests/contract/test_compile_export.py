"""torch.compile without graph breaks, torch.export with a dynamic batch, gradient checkpointing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import vitune
from tests.contract.cases import ALL, CASES, FEW, SLOW, gradients, loss_of, randomise, tune
from tests.contract.families import FAMILIES, images
from vitune.anatomy import logits


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize(("text", "family"), SLOW)
def test_compiled_as_one_graph_computes_the_same(text, family):
    tuned = randomise(tune(text, family))
    tuned.model.eval()
    batch = images(family)
    expected, wanted = tuned(batch).detach(), gradients(tuned, batch)
    tuned.model.compile(fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(tuned(batch), expected, rtol=1e-5, atol=1e-6)
    found = gradients(tuned, batch)
    assert found.keys() == wanted.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-4, atol=1e-6, msg=name)


EXPORTED = [*SLOW, *((case.text, "plain") for case in CASES if len(case.names) == 1 and case.text not in FEW)]
EXPORTED = [place for place in EXPORTED if place in ALL]
CHECKPOINTED = [(text, family) for text in FEW for family in ("plain", "distilled", "siglip")]
CHECKPOINTED = [place for place in CHECKPOINTED if place in ALL]
CHECKPOINTED += [(text, family) for text, family in SLOW if family == "hf"]


@pytest.mark.parametrize(("text", "family"), EXPORTED)
def test_exported_with_a_dynamic_batch_computes_the_same(text, family):
    tuned = randomise(tune(text, family))
    tuned.model.eval()
    dynamic = ({0: torch.export.Dim("batch", min=1, max=64)},)
    program = torch.export.export(tuned.model, (images(family, batch=2),), dynamic_shapes=dynamic)
    other = images(family, batch=5)
    with torch.no_grad():
        torch.testing.assert_close(logits(program.module(), other), tuned(other), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("text", "family"), CHECKPOINTED)
def test_gradient_checkpointing_gives_the_same_gradients(text, family):
    tuned = randomise(tune(text, family))
    tuned.model.train()
    wanted, without = gradients_and_saved_tensors(tuned, images(family))
    if FAMILIES[family].anatomy.startswith("hf-"):
        tuned.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    else:
        tuned.model.set_grad_checkpointing()
    found, saved = gradients_and_saved_tensors(tuned, images(family))
    assert found.keys() == wanted.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-5, atol=1e-7, msg=name)
    if text != "linear":  # which keeps nothing of the blocks anyway
        assert saved < without - 20, "the blocks kept their tensors, so nothing was recomputed"


def gradients_and_saved_tensors(tuned: vitune.Tuned, batch: Tensor) -> tuple[dict[str, Tensor], int]:
    """Gradients under one dropout draw, and how many tensors the forward pass kept for them."""
    saved: list[int] = []
    tuned.model.zero_grad(set_to_none=True)
    torch.manual_seed(0)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (saved.append(1), t)[1], lambda t: t):
        loss = loss_of(tuned, batch)
    count = len(saved)
    loss.backward()
    return {name: p.grad for name, p in tuned.trainable().items() if p.grad is not None}, count
