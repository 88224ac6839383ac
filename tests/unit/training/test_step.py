from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from vitune.errors import TrainingError
from vitune.training.batches import make_loader
from vitune.training.devices import make_accelerator
from vitune.training.optimizer import build_optimizer
from vitune.training.step import Logits, Stepper, check_gradients
from vitune.training.watch import LossWatch
from vitune.tuned import Tuned

from .small import CLASSES, SmallImages, small_config, small_tuned


def take_step(tuned: Tuned, step: int = 0, **changes: Any) -> float:
    config = dataclasses.replace(small_config(), **changes)
    accelerator = make_accelerator("cpu", "fp32")
    optimizer = accelerator.prepare_optimizer(build_optimizer(tuned, config))
    forward = accelerator.prepare_model(Logits(tuned))
    stepper = Stepper(tuned, forward, optimizer, accelerator, config, CLASSES, LossWatch(str))
    images, labels, indices = next(iter(make_loader(SmallImages(8), [[(0, i) for i in range(7)]], 0)))
    tuned.model.train()
    return float(stepper.step(images, labels, indices.tolist(), step=step, lr=0.1, weight=1.0))


def state(tuned: Tuned) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in tuned.state().items()}


def test_is_the_step_of_a_plain_loop() -> None:
    ours, plain = small_tuned(), small_tuned()
    loss = take_step(ours, optimizer="sgd", weight_decay=0.0, label_smoothing=0.1, clip_norm=0.5)
    images, labels, _ = next(iter(make_loader(SmallImages(8), [[(0, i) for i in range(7)]], 0)))
    plain.model.train()
    expected = F.cross_entropy(plain(images), labels, label_smoothing=0.1)
    expected.backward()
    parameters = list(plain.trainable().values())
    norm = nn.utils.clip_grad_norm_(parameters, 0.5)
    assert norm > 0.5  # the clipping is tested, too
    torch.optim.SGD(parameters, lr=0.1, momentum=0.9).step()
    assert loss == pytest.approx(expected.item(), abs=1e-6)
    for name, tensor in ours.state().items():
        assert torch.allclose(tensor, plain.state()[name], atol=1e-7), name


def test_parts_of_a_batch_add_up_to_the_batch() -> None:
    whole, parts = small_tuned(), small_tuned()
    losses = [take_step(whole), take_step(parts, accumulate=3)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    for name, tensor in whole.state().items():
        assert torch.allclose(tensor, parts.state()[name], atol=1e-6), name


def test_dropout_depends_on_the_seed_and_the_step_alone() -> None:
    ends = []
    for global_seed, step in ((0, 4), (1, 4), (0, 5)):
        tuned = small_tuned(drop_rate=0.5)
        torch.manual_seed(global_seed)
        take_step(tuned, step)
        ends.append(tuned.state()["head.weight"].clone())
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


def test_a_loss_that_is_not_finite_stops_before_the_weights_change() -> None:
    tuned = small_tuned()
    with torch.no_grad():
        tuned.model.cls_token.fill_(float("nan"))
    before = state(tuned)
    with pytest.raises(
        TrainingError, match=r"The loss is nan at step 10 with lr 0.1; the batch was: 0, 1, 2"
    ):
        take_step(tuned, 9)
    assert all(torch.equal(tensor, before[name]) for name, tensor in tuned.state().items())


def test_a_parameter_that_the_output_does_not_depend_on_is_named() -> None:
    tuned = small_tuned()
    tuned.model.get_submodule("head").unused = nn.Parameter(torch.zeros(1))
    with pytest.raises(
        TrainingError, match=r"The trainable parameter 'head\.unused' got no gradient in the first step"
    ):
        take_step(tuned)


def test_several_parameters_without_gradient_are_counted() -> None:
    with pytest.raises(TrainingError, match=r"' and \d+ more got no gradient"):
        check_gradients(small_tuned())
