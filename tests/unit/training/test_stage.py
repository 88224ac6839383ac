from __future__ import annotations

import torch

from vitune.training.devices import make_accelerator
from vitune.training.stage import Stage
from vitune.training.step import Logits

from .small import small_config, small_data, small_tuned

CONFIG = small_config(epochs=2, ema=0.5, warmup_epochs=1.0, min_lr=1e-3)


def make_stage(start: int = 6) -> Stage:
    tuned = small_tuned()
    return Stage(tuned, Logits(tuned), small_data(20), CONFIG, 1e-2, make_accelerator("cpu", "fp32"), start)


def test_counts_steps_from_the_start_of_the_run() -> None:
    stage = make_stage(start=6)
    assert stage.end == 12
    assert [stage.images(step) for step in range(6, 12)] == [8, 8, 4, 8, 8, 4]
    assert [stage.own_images(step) for step in range(6, 12)] == [8, 8, 4, 8, 8, 4]
    assert len(stage.batches(9, workers=0)) == 3
    # The warm-up begins anew with the stage: one epoch of three steps.
    assert [round(stage.lr(step), 6) for step in (6, 7, 8, 9)] == [0.003333, 0.006667, 0.01, 0.01]


def test_optimizer_and_average_go_into_another_stage() -> None:
    first, second = make_stage(0), make_stage(0)
    for step, (images, labels, indices) in enumerate(first.batches(0, workers=0)):
        first.step(step, images, labels, indices)
    saved = {name: tensor.clone() for name, tensor in first.tensors().items()}
    second.restore(saved)
    assert second.tensors().keys() == saved.keys()
    assert all(torch.equal(tensor, saved[name]) for name, tensor in second.tensors().items())
    assert {name.split("/")[0] for name in saved} == {"optimizer", "ema"}
