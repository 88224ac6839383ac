"""Work: arithmetic, traffic and operations of a call, by hand."""

from __future__ import annotations

import torch
from torch import nn

from vitune.measure import Work, count_work, weightless_copy


def test_a_product_and_a_sum() -> None:
    a, b = torch.ones(4, 8), torch.ones(8, 2)
    found = count_work(lambda: (a @ b) + 1.0)
    floats = (4 * 8 + 8 * 2 + 4 * 2) + (4 * 2 + 4 * 2)
    assert found == Work(flops=2 * 4 * 8 * 2, traffic_bytes=4 * floats, operations=2)


def test_views_are_no_work_and_in_place_operations_are() -> None:
    a = torch.ones(4, 8)
    assert count_work(lambda: a.view(8, 4).t().unsqueeze(0)) == Work(0, 0, 0)
    assert count_work(lambda: a.mul_(2)) == Work(0, 2 * 4 * 32, 1)


def test_a_weightless_copy_counts_the_same_and_runs_backward() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 2))
    forward = count_work(lambda: model(torch.ones(3, 8)))
    with weightless_copy(model) as twin:
        assert count_work(lambda: twin(torch.ones(3, 8))) == forward
        step = count_work(lambda: twin(torch.ones(3, 8)).sum().backward())
    # The inputs need no gradient: of the first product only the weight's.
    assert step.flops == 2 * 3 * (2 * 8 * 16 + 3 * 16 * 2)
    assert step.operations > 2 * forward.operations


def test_works_add_up() -> None:
    assert Work(1, 2, 3) + Work(1, 2, 3) == Work(1, 2, 3).times(2) == Work(2, 4, 6)
