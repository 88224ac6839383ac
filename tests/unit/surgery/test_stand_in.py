from __future__ import annotations

import copy
import pickle
from typing import Any

import torch
from torch import Tensor, nn

from vitune.surgery import AlwaysInEvaluation, Edit, attach, detach, stand_in


class Wrapped(nn.Module):
    """A foreign layer that owns and calls the one it tunes."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        vars(self)["base_layer"] = base
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.base_layer(x)  # type: ignore[operator]


class Wraps(Edit):
    key = "wraps"

    def forward(self, x: Tensor) -> Tensor:
        return self.vitune.wraps(x)


class Shifts(Edit):
    key = "shifts"

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1


def wrapped(*, below: bool = False) -> tuple[Any, Tensor, Tensor]:
    """An edited layer, an input, and what the plain layer makes of it."""
    layer, x = nn.Linear(3, 2), torch.ones(1, 3)
    plain = layer(x).detach()
    owner = Wrapped(stand_in(layer, Wraps))
    if below:
        attach(layer, Shifts, nn.Module())
    attach(layer, Wraps, owner)
    return layer, x, plain


def test_it_computes_what_lies_below_the_edit():
    layer, x, plain = wrapped()
    assert torch.equal(layer(x), 2 * plain)
    layer, x, plain = wrapped(below=True)
    assert torch.equal(layer(x), 2 * (plain + 1))


def test_it_is_of_the_class_and_shares_the_parameters_without_further_names():
    layer, *_ = wrapped()
    base = layer.vitune.wraps.base_layer
    assert isinstance(base, nn.Linear)
    assert base.weight is layer.weight
    assert list(layer.state_dict()) == ["weight", "bias", "vitune.wraps.scale"]
    layer.to(torch.float64)
    assert base.weight.dtype is torch.float64
    base.bias = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    assert layer.bias is base.bias
    detach(layer, Wraps)
    assert type(layer) is nn.Linear


def test_a_copy_wraps_its_own_layer():
    for copied in (copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))):
        layer, x, plain = wrapped()
        twin = copied(layer)
        with torch.no_grad():
            twin.weight.zero_()
            twin.bias.zero_()
        assert not twin(x).any()
        assert torch.equal(layer(x), 2 * plain)


def test_hooks_of_the_layer_run_once():
    layer = nn.Linear(3, 2)
    calls = []
    layer.register_forward_hook(lambda *_: calls.append(1))
    attach(layer, Wraps, Wrapped(stand_in(layer, Wraps)))
    layer(torch.ones(1, 3))
    assert calls == [1]


def test_a_layer_may_stay_in_evaluation():
    layer = nn.Dropout(0.5)
    attach(layer, AlwaysInEvaluation, nn.Module())
    model = nn.Sequential(layer, nn.Dropout(0.5)).train()
    assert [module.training for module in model] == [False, True]
    assert list(model.state_dict()) == []
