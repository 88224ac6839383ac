from __future__ import annotations

import pickle

from torch import nn

from vitune.methods._once import Once


def make() -> nn.Module:
    return nn.Linear(2, 2)


def test_layers_share_one_and_the_next_plan_gets_another():
    once = Once(make, 2)
    first, second = once(), once()
    assert first is second
    assert once() is not first


def test_a_plan_that_was_carried_out_holds_no_weights():
    once = Once(make, 1)
    empty = len(pickle.dumps(once))
    once()
    assert len(pickle.dumps(once)) == empty
