"""ALaST's harness and library against ALaST written out, in sizes and options that no golden has."""

from __future__ import annotations

import pytest

from tests.parity.harness import check
from tests.parity.longhand import alast

USUAL = {"alpha": 4e-3, "initial_budget": 0.7, "lr": 1e-3, "trained": [[0, 2], [1, 2], [0, 1]]}
STEPS = {
    "one_block_of_a_deep_model": {
        "depth": 5,
        "trained": [[0], [3], [4], [3]],
        "initial_budget": 0.9,
        "alpha": 1e-2,
    },
    "all_blocks": {"trained": [[0, 1, 2]] * 2, "initial_budget": 0.55, "img_size": 40, "batch": 3},
    "wider_range": {"clip": [0.2, 0.8], "initial_budget": 0.25, "alpha": 2e-3},
    "mean": {"options": {"delta_reduction": "mean", "first_delta": "reference"}},
    "previous": {"options": {"budget_timing": "previous", "token_count": "patches"}, "clip": [0.0, 1.0]},
    "frozen_embeddings": {"options": {"train_embeddings": False}, "trained": [[1, 2], [2, 0]]},
}


@pytest.mark.parametrize("name", STEPS)
def test_steps(name, tmp_path):
    result = check(alast.steps(tmp_path / f"{name}.safetensors", **USUAL | STEPS[name]))
    assert result["ok"], result


ARITHMETIC = {
    "many_layers": {"layers": 7, "steps": 5, "batch": 3, "tokens": 26, "heads": 4, "k": 4, "alpha": 0.01},
    "all_drawn": {"layers": 3, "steps": 2, "batch": 1, "tokens": 5, "heads": 1, "k": 3, "alpha": 0.05},
    "open_range": {"layers": 4, "steps": 4, "batch": 4, "tokens": 50, "heads": 2, "k": 1, "alpha": 0.003}
    | {"clip": [0.0, 1.0], "initial_budget": 0.6, "initial_delta": 10.0},
}


@pytest.mark.parametrize("name", ARITHMETIC)
def test_arithmetic(name, tmp_path):
    result = check(alast.arithmetic(tmp_path / f"{name}.safetensors", **ARITHMETIC[name]))
    assert result["ok"], result
