"""The examples run."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(("method", "stages"), [("lora(rank=4)", 1), ("e2vpt(prompts=4)", 2)])
def test_a_loop_of_accelerate(method: str, stages: int) -> None:
    history = runpy.run_path(str(EXAMPLES / "accelerate_loop.py"))["main"](method)
    assert len(history) == 3 * stages
    assert history[2] < history[0]
