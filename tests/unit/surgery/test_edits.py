from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any

import pytest
import torch
from tests.unit.surgery.backbone import small
from torch import Tensor, nn

from vitune.anatomy import anatomy
from vitune.errors import SurgeryError
from vitune.lean import set_memory
from vitune.surgery import Edit, attach, detach, layer_of, parts_of


class Plus(Edit):
    key = "plus"

    def forward(self: Any, x: Tensor) -> Tensor:
        return super().forward(x) + self.vitune.plus(x)


class Times(Edit):
    key = "times"

    def forward(self: Any, x: Tensor) -> Tensor:
        return super().forward(x) * self.vitune.times.weight


class SameKey(Edit):
    key = "plus"


class Instead(Edit):
    key = "instead"
    inner = True

    def forward(self: Any, x: Tensor) -> Tensor:
        return -x


class Factor(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(value))


X = torch.linspace(-1, 1, 4)[None]


def edited() -> tuple[nn.Linear, nn.Linear]:
    """A linear layer with y = 3 (W x + b + V x), and V."""
    torch.manual_seed(0)
    layer, extra = nn.Linear(4, 4), nn.Linear(4, 4, bias=False)
    attach(layer, Plus, extra)
    attach(layer, Times, Factor(3.0))
    return layer, extra


def test_the_latest_edit_is_the_outermost():
    layer, extra = edited()
    torch.testing.assert_close(layer(X), 3 * (X @ layer.weight.T + layer.bias + X @ extra.weight.T))
    assert parts_of(layer) == (nn.Linear, (Times, Plus))
    assert layer_of(layer, Plus) is extra


@pytest.mark.parametrize("place", range(3))
def test_inner_edits_stay_below_the_others_whichever_came_first(place):
    layer, edits = nn.Linear(4, 4), [(Plus, nn.Identity()), (Times, Factor(3.0))]
    edits.insert(place, (Instead, nn.Identity()))
    for edit, child in edits:
        attach(layer, edit, child)
    assert parts_of(layer) == (nn.Linear, (Times, Plus, Instead))
    torch.testing.assert_close(layer(X), torch.zeros(1, 4))  # 3 (-x + x)


def test_base_parameters_keep_their_names_order_and_identity():
    plain = nn.Linear(4, 4)
    weight, names = plain.weight, list(plain.state_dict())
    attach(plain, Plus, nn.Linear(4, 4, bias=False))
    assert list(plain.state_dict()) == [*names, "vitune.plus.weight"]
    assert plain.weight is weight
    assert isinstance(plain, nn.Linear)
    assert type(plain).__name__ == "Linear"


@pytest.mark.parametrize("order", [(Plus, Times), (Times, Plus)])
def test_detached_in_any_order(order):
    layer, extra = edited()
    plain = nn.functional.linear(X, layer.weight, layer.bias)
    left = {Plus: 3 * plain, Times: plain + X @ extra.weight.T}
    detach(layer, order[0])
    torch.testing.assert_close(layer(X), left[order[0]])
    detach(layer, order[1])
    assert type(layer) is nn.Linear
    assert list(layer.state_dict()) == ["weight", "bias"]
    assert not hasattr(layer, "vitune")
    assert torch.equal(layer(X), plain)


def test_one_class_for_one_combination():
    one, other = edited()[0], edited()[0]
    assert type(one) is type(other)


@pytest.mark.parametrize("again", [Plus, SameKey])
def test_the_same_edit_twice_is_refused(again):
    layer, _ = edited()
    with pytest.raises(SurgeryError, match="Linear is edited by 'plus' already; detach it first"):
        attach(layer, again, nn.Linear(4, 4))
    assert parts_of(layer)[1] == (Times, Plus)


def test_the_reserved_name_is_refused():
    layer = nn.Linear(4, 4)
    layer.vitune = nn.Identity()
    with pytest.raises(
        SurgeryError, match="Linear has an attribute 'vitune' of its own; that name is reserved"
    ):
        attach(layer, Plus, nn.Linear(4, 4))
    assert type(layer) is nn.Linear


def test_detaching_what_is_not_there_is_refused():
    layer = nn.Linear(4, 4)
    with pytest.raises(SurgeryError, match="Linear does not carry the edit 'plus'"):
        detach(layer, Plus)


def test_detaching_below_another_tool_is_refused():
    layer, _ = edited()
    layer.__class__ = type("FSDPLinear", (type(layer),), {})  # what fully_shard does
    with pytest.raises(
        SurgeryError, match=r"FSDPLinear does not carry the edit 'plus'; .* \(such as FSDP\) wrapped"
    ):
        detach(layer, Plus)
    assert type(layer).__name__ == "FSDPLinear"
    assert "vitune.plus.weight" in layer.state_dict()


def test_a_layer_that_cannot_be_added_leaves_the_module_as_it_was():
    class Half(Edit):
        key = "half"  # a method of every module

    layer = nn.Linear(4, 4)
    with pytest.raises(KeyError, match="half"):
        attach(layer, Half, Factor(1.0))
    assert type(layer) is nn.Linear
    assert not hasattr(layer, "vitune")


def test_copies_and_pickles_keep_the_edits():
    layer, _ = edited()
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert parts_of(other) == parts_of(layer)
        assert torch.equal(other(X), layer(X))
        with torch.no_grad():
            layer_of(other, Times).weight.mul_(2)
        torch.testing.assert_close(other(X), 2 * layer(X))


def test_by_default_an_edit_does_not_fold():
    assert not Plus.can_fold(nn.Linear(4, 4))


def test_an_edit_that_passes_everything_on_has_the_signature_of_what_is_below():
    model = small()
    expected = inspect.signature(model.forward)
    set_memory(anatomy(model), "fast")
    assert inspect.signature(model.forward) == expected
    model.train()(torch.randn(1, *anatomy(model).input_size)).sum().backward()
