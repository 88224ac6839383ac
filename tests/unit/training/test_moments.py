from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vitune.training import moments


class Doubling:
    def loss(self, logits: Tensor, targets: Tensor, criterion: moments.Criterion) -> Tensor:
        return 2 * criterion(logits, targets)


class AddingOne:
    def loss(self, logits: Tensor, targets: Tensor, criterion: moments.Criterion) -> Tensor:
        return 1 + criterion(logits, targets)


class Staged:
    def __init__(self, stages: int) -> None:
        self.left = stages

    def next_stage(self) -> bool:
        self.left -= 1
        return self.left > 0

    def state_dict(self) -> dict[str, Any]:
        return {"left": self.left}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.left = state["left"]


def test_losses_wrap_each_other_from_the_first_policy_outwards() -> None:
    def criterion(logits: Tensor, targets: Tensor) -> Tensor:
        return (logits - targets).sum()

    logits, targets = torch.tensor([5.0]), torch.tensor([2.0])
    assert moments.loss([], logits, targets, criterion) == 3
    assert moments.loss([Doubling(), AddingOne()], logits, targets, criterion) == 7
    assert moments.loss([AddingOne(), Doubling()], logits, targets, criterion) == 8


def test_every_policy_hears_of_the_end_of_a_stage() -> None:
    policies = [Staged(3), object(), Staged(2)]
    assert [moments.next_stage(policies) for _ in range(3)] == [True, True, False]
    assert [policy.left for policy in policies if isinstance(policy, Staged)] == [0, -1]


def test_a_policy_without_moments_is_left_alone() -> None:
    policies = [object()]
    moments.prepare(policies, [])
    moments.before_step(policies, 0)
    moments.after_backward(policies)
    moments.after_step(policies)
    moments.load_state_dicts(policies, moments.state_dicts(policies))


def test_state_goes_back_where_it_came_from() -> None:
    saved = moments.state_dicts([object(), Staged(5)])
    other = Staged(1)
    moments.load_state_dicts([object(), other], saved)
    assert other.left == 5
