"""Which patches ALaST's blocks would see of an image in training, for the report of a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vitune.methods.alast.edits import BlockShare, _Steered
from vitune.methods.alast.steering import Forward, Steering

if TYPE_CHECKING:
    from vitune.tuned import Tuned


def kept_by_blocks(tuned: Tuned, images: Tensor) -> dict[str, Any]:
    """What `vitune.report.pictures.kept_patches` draws: the patches that enter every block under the present budgets.

    Args:
        tuned: A model with ALaST, whose budgets stay as they are.
        images: (B, channels, height, width).
    """
    shares = [module for module in tuned.model.modules() if isinstance(module, BlockShare)]
    steering = shares[0].steering
    with _choosing(tuned, steering), torch.random.fork_rng(devices=_devices(images)), torch.enable_grad():
        torch.manual_seed(0)  # of random tokens
        tuned(images)
        taken = [_entering(steering, block) for block in range(steering.blocks)]
    layers = []
    for block, rows in enumerate(taken):
        kept = torch.ones(len(images), steering.patches, dtype=torch.int64)
        if rows is not None:
            kept = torch.zeros_like(kept).scatter_(1, rows.cpu(), 1)
        texts = ["".join(map(str, row)) for row in kept.tolist()]
        layers.append({"role": f"blocks.{block}", "kept": texts})
    return {"when": "training", "grid": list(tuned.anatomy.grid), "layers": layers}


def _entering(steering: Steering, block: int) -> Tensor | None:
    """Which patches (B, n) entered a block in the last forward; None: all."""
    state = steering.forward
    carried = steering.settings.dropped == "carried"
    return (state.rows if carried else state.places).get(block)


@contextmanager
def _choosing(tuned: Tuned, steering: Steering) -> Iterator[None]:
    """While entered, tokens are chosen as in training, by budgets that do not move; all else evaluates."""
    modes = [(module, module.training) for module in tuned.model.modules()]
    settings = steering.settings
    steering.settings = replace(settings, budget_rule="flat")
    for module, _ in modes:
        module.training = isinstance(module, _Steered)
    try:
        yield
    finally:
        steering.settings, steering.forward = settings, Forward()
        for module, training in modes:
            module.training = training


def _devices(images: Tensor) -> list[torch.device]:
    return [images.device] if images.device.type == "cuda" else []
