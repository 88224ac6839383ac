from __future__ import annotations

import dataclasses

import pytest
import torch

from vitune.training import TrainConfig
from vitune.training.devices import make_accelerator
from vitune.training.stage import Stage
from vitune.training.step import Logits

from .small import small_config, small_data, small_tuned

CONFIG = small_config(epochs=2, ema=0.5, warmup_epochs=1.0, min_lr=1e-3)


def make_stage(start: int = 6, config: TrainConfig = CONFIG) -> Stage:
    tuned = small_tuned()
    return Stage(tuned, Logits(tuned), small_data(20), config, 1e-2, make_accelerator("cpu", "fp32"), start)


def test_counts_steps_from_the_start_of_the_run() -> None:
    stage = make_stage(start=6)
    assert stage.end == 12
    assert [stage.images(step) for step in range(6, 12)] == [8, 8, 4, 8, 8, 4]
    assert [stage.own_images(step) for step in range(6, 12)] == [8, 8, 4, 8, 8, 4]
    assert len(stage.batches(9, workers=0)) == 3
    # The warm-up begins anew with the stage: one epoch of three steps.
    assert [round(stage.lr(step), 6) for step in (6, 7, 8, 9)] == [0.003333, 0.006667, 0.01, 0.01]


def test_a_last_batch_that_is_not_full_may_be_left_out() -> None:
    stage = make_stage(0, small_config(epochs=2, drop_last=True))
    assert stage.end == 4
    assert [stage.images(step) for step in range(4)] == [8] * 4
    assert [len(batch) for batch, *_ in stage.batches(0, workers=0)] == [8] * 4


def test_rates_may_be_set_by_epoch_and_cool_down() -> None:
    config = small_config(
        epochs=5,
        cooldown_epochs=2,
        warmup_epochs=1.0,
        warmup_lr=0.0,
        lr_every="epoch",
        cosine_from="start",
        min_lr=1e-3,
    )
    stage = make_stage(3, config)
    found = [round(stage.lr(step), 6) for step in range(3, 18)]
    assert found == [0.0] * 3 + [0.00775] * 3 + [0.00325] * 3 + [0.001] * 6
    late = make_stage(
        3, dataclasses.replace(config, lr_every="late epoch", cooldown_epochs=0, cosine_from="warmup")
    )
    assert [late.lr(step) for step in (3, 6, 9)] == pytest.approx([0.0, 0.0, 0.01])


def test_optimizer_and_average_go_into_another_stage() -> None:
    first, second = make_stage(0), make_stage(0)
    for step, (images, labels, indices) in enumerate(first.batches(0, workers=0)):
        first.step(step, images, labels, indices)
    saved = {name: tensor.clone() for name, tensor in first.tensors().items()}
    second.restore(saved)
    assert second.tensors().keys() == saved.keys()
    assert all(torch.equal(tensor, saved[name]) for name, tensor in second.tensors().items())
    assert {name.split("/")[0] for name in saved} == {"optimizer", "ema"}
