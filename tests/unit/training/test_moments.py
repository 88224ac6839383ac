from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from vitune.errors import TrainingError
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


class Twice:
    passes = 2

    def losses(self, forward: Any, images: Tensor, targets: Tensor, criterion: moments.Criterion) -> Any:
        yield criterion(forward(images), targets)
        yield criterion(forward(-images), targets)


def test_passes_come_one_after_the_other_with_the_losses_of_the_other_policies() -> None:
    seen: list[float] = []

    def forward(images: Tensor) -> Tensor:
        seen.append(float(images))
        return images * 10

    def criterion(logits: Tensor, targets: Tensor) -> Tensor:
        return (logits - targets).sum()

    images, targets = torch.tensor([1.0]), torch.tensor([2.0])
    policies = [AddingOne(), Twice()]
    losses = moments.losses(policies, forward, images, targets, criterion)
    assert moments.passes(policies) == 2
    assert (next(losses).item(), seen) == (9.0, [1.0])  # the second pass has not begun
    assert [loss.item() for loss in losses] == [-11.0]
    assert moments.passes([AddingOne()]) == moments.passes([]) == 1
    only = moments.losses([AddingOne()], forward, images, targets, criterion)
    assert [loss.item() for loss in only] == [9.0]


def test_two_policies_cannot_both_make_the_passes() -> None:
    with pytest.raises(TrainingError, match="Twice and Twice both make the passes of a step; use one"):
        moments.passes([Twice(), Twice()])


class Talking:
    def __init__(self) -> None:
        self.run: Any = None

    def begin(self, run: Any) -> None:
        self.run = run

    def log(self) -> dict[str, Any]:
        return {"kept": 3}


def test_policies_hear_of_the_run_and_are_asked_for_the_log() -> None:
    policy, run = Talking(), object()
    moments.begin([object(), policy], run)
    assert policy.run is run
    assert moments.log([object(), policy]) == {"kept": 3}
    assert moments.log([object()]) == {}
