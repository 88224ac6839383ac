from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import vitune
from vitune.errors import ConfigError, TrainingError
from vitune.methods import Policy
from vitune.training import Event, FitData, fit, load_checkpoint
from vitune.training.moments import Criterion
from vitune.tuned import Tuned

from .small import CLASSES, SmallImages, small_config, small_data, small_tuned, without_clock


def test_learns_and_leaves_what_the_contract_says(tmp_path: Path) -> None:
    events: list[Event] = []
    data = small_data(30, 12, noise=0.1)
    result = fit(
        small_tuned(vitune.Full()), data, small_config(epochs=8), directory=tmp_path, on_event=events.append
    )
    assert result.status == "finished"
    assert result.validation is not None
    assert result.validation.accuracy == 1.0
    assert (result.steps, result.protocol, result.lr) == (32, "val: best epoch", 1e-2)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines].count("step") == 32
    epochs = [line for line in lines if line["event"] == "epoch"]
    names = ["epoch", "step", "lr", "train_loss", "train_images", "val_loss", "val_accuracy", "seconds"]
    assert epochs[0].keys() == {"event", "time", *names, "images_per_second", "data_wait_share"}
    assert [without_clock(line) for line in result.epochs] == [
        {name: value for name, value in without_clock(line).items() if name != "event"} for line in epochs
    ]
    progress = [event.values for event in events if event.kind == "progress"]
    assert (progress[0]["step"], progress[-1]["step"], progress[-1]["seconds_left"]) == (1, 32, 0.0)
    checkpoint = load_checkpoint(tmp_path / "checkpoint")
    assert checkpoint is not None
    assert checkpoint.step == 32


def test_keeps_the_best_epoch_and_not_the_last() -> None:
    # Validation images of hardly anything but noise: which epoch is best is a matter of chance.
    config = small_config(epochs=4)
    data = FitData(SmallImages(24), SmallImages(12, noise=30.0), CLASSES)
    result = fit(small_tuned(vitune.Full()), data, config)
    ranked = sorted(result.epochs, key=lambda line: (-line["val_accuracy"], line["val_loss"], line["epoch"]))
    assert result.best_epoch == ranked[0]["epoch"] != 4
    assert result.validation is not None
    assert result.validation.loss == ranked[0]["val_loss"]
    last = fit(small_tuned(vitune.Full()), data, dataclasses.replace(config, select="last"))
    assert (last.best_epoch, last.protocol) == (4, "last epoch")
    assert last.validation is not None
    assert last.validation.loss == result.epochs[-1]["val_loss"]


def test_without_validation_images_the_last_epoch_counts() -> None:
    result = fit(small_tuned(), small_data(validation=None), small_config())
    assert (result.best_epoch, result.protocol, result.validation) == (3, "last epoch", None)
    assert {line["val_accuracy"] for line in result.epochs} == {None}


def test_averaged_weights_are_evaluated_and_kept() -> None:
    config = small_config(ema=0.5, select="last")
    tuned, plain = small_tuned(), small_tuned()
    result = fit(tuned, small_data(), config)
    fit(plain, small_data(), small_config(select="last"))
    assert result.validation is not None
    assert result.validation.loss == result.epochs[-1]["val_loss"]
    assert not torch.equal(tuned.state()["head.weight"], plain.state()["head.weight"])


def test_stops_early_and_evaluates_as_often_as_asked() -> None:
    config = small_config(epochs=12, lr=1e-9, early_stop=2, eval_every=2)
    result = fit(small_tuned(), small_data(), config)
    assert [line["val_loss"] is not None for line in result.epochs] == [False, True] * (
        len(result.epochs) // 2
    )
    assert result.steps < 36
    assert result.best_epoch is not None
    assert len(result.epochs) == result.best_epoch + 4


def test_the_frozen_backbone_keeps_its_bytes() -> None:
    tuned = small_tuned()
    frozen = {name: p.clone() for name, p in tuned.model.named_parameters() if not p.requires_grad}
    fit(tuned, small_data(), small_config(epochs=1))
    after = dict(tuned.model.named_parameters())
    assert all(torch.equal(after[name], tensor) for name, tensor in frozen.items())


def test_a_last_batch_left_out_counts_neither_as_a_step_nor_in_the_loss() -> None:
    steps: list[float] = []

    def note(event: Event) -> None:
        if event.kind == "step":
            steps.append(event.values["loss"])

    config = small_config(epochs=2, drop_last=True, lr_every="late epoch", warmup_lr=0.0, warmup_epochs=1.0)
    result = fit(small_tuned(), small_data(20, None), config, on_event=note)
    assert result.steps == 4  # two of 8 images in each epoch, of 20
    assert [line["train_loss"] for line in result.epochs] == pytest.approx(
        [sum(steps[:2]) / 2, sum(steps[2:]) / 2], rel=1e-5
    )
    assert [line["lr"] for line in result.epochs] == [0.0, 0.0]


def test_the_number_of_workers_changes_nothing() -> None:
    ends = []
    for workers in (0, 2):
        tuned = small_tuned(drop_rate=0.2)
        fit(tuned, small_data(augment=True), small_config(epochs=2, mixup=0.5, workers=workers))
        ends.append(tuned.state())
    assert all(torch.equal(tensor, ends[1][name]) for name, tensor in ends[0].items())


def test_the_callers_random_state_is_left_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    fit(small_tuned(), small_data(), small_config(epochs=1))
    torch.manual_seed(5)
    assert torch.equal(torch.get_rng_state(), before)


def test_settings_without_effect_are_told(tmp_path: Path) -> None:
    events: list[Event] = []
    fit(small_tuned(), small_data(), small_config(epochs=1, momentum=0.5), on_event=events.append)
    texts = [event.values["message"] for event in events if event.kind == "warning"]
    assert texts == ["The setting momentum has no effect: adamw has betas in its place."]


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(
        ConfigError, match="batch_size 21 is larger than the 20 training images; use 20 or less"
    ):
        fit(small_tuned(), small_data(20), small_config(batch_size=21))


def test_a_broken_image_is_named_by_its_file() -> None:
    with pytest.raises(TrainingError, match=re.escape("The loss is nan at step ")) as found:
        fit(small_tuned(), small_data(20, bad=13), small_config())
    assert "image13.png" in str(found.value)
    assert "with lr 0." in str(found.value)


class Counting(Policy):
    """Notes every moment; asks for two stages; doubles the loss; freezes the head in odd steps."""

    def __init__(self, tuned: Tuned) -> None:
        self.tuned = tuned
        self.seen: list[str] = []
        self.stages = 0
        self.total = torch.zeros(())

    def prepare(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        self.seen.append("prepare")
        self.total += sum(images.sum() for images, _ in batches)

    def before_step(self, step: int) -> None:
        self.seen.append(f"before {step}")

    def loss(self, logits: Tensor, targets: Tensor, criterion: Criterion) -> Tensor:
        self.seen.append("loss")
        return 2 * criterion(logits, targets)

    def after_backward(self) -> None:
        self.seen.append(
            "backward" if self.tuned.trainable()["head.weight"].grad is not None else "no gradient"
        )

    def after_step(self) -> None:
        self.seen.append("step")
        self.total += 1

    def next_stage(self) -> bool:
        self.seen.append("stage")
        self.stages += 1
        return self.stages < 2

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen, "stages": self.stages, "total": self.total}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.seen, self.stages, self.total = list(state["seen"]), state["stages"], state["total"]


def counting_tuned() -> tuple[Tuned, Counting]:
    tuned = small_tuned(drop_rate=0.1)
    policy = Counting(tuned)
    tuned.policies = (policy,)
    return tuned, policy


def test_policies_have_their_moments_in_order() -> None:
    tuned, policy = counting_tuned()
    events: list[Event] = []
    data = FitData(SmallImages(9), SmallImages(6), CLASSES)
    result = fit(tuned, data, small_config(epochs=1, accumulate=2, batch_size=5), on_event=events.append)
    steps = [[f"before {step}", "loss", "loss", "backward", "step"] for step in range(4)]
    assert policy.seen == ["prepare", *steps[0], *steps[1], "stage", *steps[2], *steps[3], "stage"]
    assert [event.values for event in events if event.kind == "stage"] == [{"stage": 1, "step": 2}]
    assert result.steps == 4
    assert [line["epoch"] for line in result.epochs] == [1, 2]


@pytest.mark.parametrize("step", [1, 4, 7])
def test_policies_and_stages_resume(tmp_path: Path, step: int) -> None:
    config = small_config(epochs=2, checkpoint_steps=1)
    whole, expected = counting_tuned()
    fit(whole, small_data(), config)

    class Stop(Exception):
        pass

    def stop(event: Event) -> None:
        if event.kind == "progress" and event.values["step"] == step + 1:
            raise Stop

    with pytest.raises(Stop):
        fit(counting_tuned()[0], small_data(), config, directory=tmp_path, on_event=stop)
    checkpoint = load_checkpoint(tmp_path / "checkpoint")
    assert checkpoint is not None
    assert checkpoint.step == step
    again, policy = counting_tuned()
    fit(again, small_data(), config, directory=tmp_path, resume=True)
    assert policy.seen == expected.seen
    assert torch.equal(policy.total, expected.total)
    assert all(torch.equal(tensor, whole.state()[name]) for name, tensor in again.state().items())
