"""What a layer computes with after its weights came from a file, and until when."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from vitune.ops.quantiser import LowBitMatrix, Quantiser, quantisers
from vitune.ops.stored import Stored


def layer(seed: int = 0) -> LowBitMatrix:
    made = LowBitMatrix(16, 32, 1)
    with torch.no_grad():
        made.weight.normal_(0.01, 0.1, generator=torch.Generator().manual_seed(seed))
    return made.eval()


@pytest.fixture
def held() -> tuple[LowBitMatrix, Tensor]:
    """A layer that holds another one's code, and the other one's weights."""
    source, target = layer(0), layer(1)
    with torch.no_grad():
        weights = source()
    target.quantiser.hold(target.weight, source.quantiser.code(source.weight))
    return target, weights


def same_record(one: LowBitMatrix, other: LowBitMatrix) -> bool:
    records = [Stored(m.quantiser.code(m.weight), 1, "reference").to_bytes() for m in (one, other)]
    return torch.equal(*records)


def test_a_held_code_is_used_to_the_last_bit(held):
    target, weights = held
    with torch.no_grad():
        assert torch.equal(target(), weights)
    assert torch.equal(target().detach(), weights)
    assert same_record(target, layer(0))


def test_the_latent_weights_alone_give_the_last_bit_only_sometimes():
    equal = {True: 0, False: 0}
    for seed in range(20):
        source, target = layer(seed), layer(100)
        target.quantiser.hold(target.weight, source.quantiser.code(source.weight))
        with torch.no_grad():
            assert torch.equal(target(), source())
            target.quantiser.let_go()
            torch.testing.assert_close(target(), source(), rtol=1e-5, atol=1e-6)
            equal[torch.equal(target(), source())] += 1
    assert equal[False] > 0


@pytest.mark.parametrize("change", ["optimizer", "copy", "replace"])
def test_changed_latent_weights_count_at_once_in_eval_mode_too(held, change):
    target, weights = held
    if change == "optimizer":
        optimizer = torch.optim.AdamW(target.parameters(), lr=0.1)
        (target() * torch.randn(16, 32)).sum().backward()
        optimizer.step()
    elif change == "copy":
        target.weight.data.zero_()  # which no version counter sees ...
        with torch.no_grad():
            target.weight.copy_(layer(2).weight)  # ... but this it does
    else:
        target.weight = nn.Parameter(layer(2).weight.detach().clone())
    expected = LowBitMatrix(16, 32, 1)
    expected.load_state_dict(target.state_dict())
    with torch.no_grad():
        assert torch.equal(target(), expected())
        assert not torch.equal(target(), weights)


def test_training_mode_lets_go(held):
    target, _ = held
    target.eval()
    assert target.quantiser.index is not None
    target.train()
    assert target.quantiser.index is None


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_copies_hold_too_and_let_go_by_themselves(held, how):
    target, weights = held
    made = copy.deepcopy(target) if how == "deepcopy" else pickle.loads(pickle.dumps(target))
    with torch.no_grad():
        assert torch.equal(made(), weights)
        made.weight.add_(torch.randn(16, 32))
        assert not torch.equal(made(), weights)
        assert torch.equal(target(), weights)


def test_a_copy_of_what_was_changed_meanwhile_does_not_hold(held):
    target, weights = held
    with torch.no_grad():
        target.weight.copy_(layer(2).weight)
        assert torch.equal(copy.deepcopy(target)(), layer(2)())
        assert not torch.equal(target(), weights)


def test_the_gradient_is_that_of_the_latent_weights(held):
    target, _ = held
    gradient = torch.randn(16, 32)
    target().backward(gradient)
    found = target.weight.grad
    target.quantiser.let_go()
    target.weight.grad = None
    target().backward(gradient)
    torch.testing.assert_close(found, target.weight.grad, rtol=1e-4, atol=1e-5)


def test_tables_stay_in_full_precision(held):
    target, weights = held
    target.to(torch.bfloat16)
    assert target.quantiser.levels.dtype == torch.float32
    with torch.no_grad():
        assert target().dtype == torch.bfloat16
    target.float()
    with torch.no_grad():
        assert torch.equal(target(), weights)


def test_nothing_of_it_is_in_the_state_dict(held):
    assert list(held[0].state_dict()) == ["weight"]


def test_compiled_without_gradient_it_holds_and_lets_go(held):
    target, weights = held
    torch._dynamo.reset()
    compiled = torch.compile(target, fullgraph=True, backend="eager")
    with torch.no_grad():
        assert torch.equal(compiled(), weights)
    target.train()
    with torch.no_grad():
        target.weight.copy_(layer(2).weight)
        target.eval()
        torch.testing.assert_close(compiled(), layer(2)())
    torch._dynamo.reset()


def test_exported_it_is_a_constant(held):
    target, weights = held

    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.matrix = target

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.linear(x, self.matrix())

    x = torch.randn(3, 32)
    program = torch.export.export(Product().eval(), (x,))
    assert "bucketize" not in program.graph_module.code
    assert torch.equal(program.module()(x), nn.functional.linear(x, weights))


def test_a_quantiser_belongs_to_the_nearest_weight_above():
    head = nn.Linear(8, 4)
    head.extras = nn.Module()
    head.extras.add_module("binary", Quantiser(1))
    model = nn.Sequential(LowBitMatrix(2, 2, 4), head, nn.ReLU())
    assert {name: found.bits for name, found in quantisers(model).items()} == {"0.weight": 4, "1.weight": 1}
    assert list(quantisers(head)) == ["weight"]


def test_weights_made_in_inference_mode():
    with torch.inference_mode():
        source, target = layer(0), layer(1)
        target.quantiser.hold(target.weight, source.quantiser.code(source.weight))
        assert torch.equal(target(), source())
