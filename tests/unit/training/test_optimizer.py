from __future__ import annotations

import dataclasses
import re

import pytest
import torch

import vitune
from vitune.errors import TrainingError
from vitune.training.optimizer import (
    build_optimizer,
    load_optimizer_tensors,
    optimizer_tensors,
    set_learning_rate,
)
from vitune.tuned import Tuned

from .small import small_config, small_tuned

CONFIG = dataclasses.replace(small_config(), weight_decay=0.05)


def groups_by_name(tuned: Tuned, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, float]]:
    names = {id(parameter): name for name, parameter in tuned.trainable().items()}
    return {names[id(p)]: group for group in optimizer.param_groups for p in group["params"]}


@pytest.mark.parametrize("method", [vitune.Full(), vitune.LoRA(rank=2), vitune.SSF(), vitune.BitFit()])
def test_everything_that_trains_is_in_exactly_one_group_and_vectors_do_not_decay(
    method: vitune.Method,
) -> None:
    tuned = small_tuned(method)
    groups = groups_by_name(tuned, build_optimizer(tuned, CONFIG))
    assert groups.keys() == tuned.trainable().keys()
    for name, parameter in tuned.trainable().items():
        free = parameter.ndim <= 1 or name in {"pos_embed", "cls_token"}
        assert groups[name]["weight_decay"] == (0.0 if free else 0.05), name


def test_vectors_decay_where_that_is_asked_for() -> None:
    tuned = small_tuned(vitune.SSF())
    groups = groups_by_name(tuned, build_optimizer(tuned, dataclasses.replace(CONFIG, decay_vectors=True)))
    assert groups.keys() == tuned.trainable().keys()
    assert {group["weight_decay"] for group in groups.values()} == {0.05}


def test_layer_decay_follows_the_blocks_also_for_new_layers() -> None:
    config = dataclasses.replace(CONFIG, layer_decay=0.5)
    for method in (vitune.Full(), vitune.LoRA(rank=2)):
        tuned = small_tuned(method)
        optimizer = build_optimizer(tuned, config)
        set_learning_rate(optimizer, 0.8)
        for name, group in groups_by_name(tuned, optimizer).items():
            block = re.match(r"blocks\.(\d)", name)
            # Two blocks: the head and the last norm have the full rate, the stem is three layers below.
            layer = int(block[1]) + 1 if block else 3 if name.startswith(("head", "norm")) else 0
            assert group["lr"] == pytest.approx(0.8 * 0.5 ** (3 - layer)), name


def test_the_optimizer_is_the_one_asked_for() -> None:
    tuned = small_tuned()
    adamw = build_optimizer(tuned, dataclasses.replace(CONFIG, betas=(0.8, 0.9)))
    sgd = build_optimizer(tuned, dataclasses.replace(CONFIG, optimizer="sgd", momentum=0.7))
    assert isinstance(adamw, torch.optim.AdamW)
    assert adamw.param_groups[0]["betas"] == (0.8, 0.9)
    assert isinstance(sgd, torch.optim.SGD)
    assert (sgd.param_groups[0]["momentum"], sgd.param_groups[0]["nesterov"]) == (0.7, False)


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_state_survives_also_where_a_parameter_has_none_yet(kind: str) -> None:
    config = dataclasses.replace(CONFIG, optimizer=kind)
    tuned = small_tuned()
    first = build_optimizer(tuned, config)
    set_learning_rate(first, 0.1)
    skipped = next(name for name in tuned.trainable() if "vitune" in name)
    for name, parameter in tuned.trainable().items():
        parameter.grad = None if name == skipped else torch.ones_like(parameter)
    first.step()
    saved = {name: tensor.clone() for name, tensor in optimizer_tensors(first, tuned.trainable()).items()}
    second = build_optimizer(tuned, config)
    load_optimizer_tensors(second, tuned.trainable(), saved)
    loaded = optimizer_tensors(second, tuned.trainable())
    assert loaded.keys() == saved.keys()
    assert not any(name.startswith(f"{skipped}/") for name in saved)
    assert all(torch.equal(loaded[name], saved[name]) for name in saved)


def test_nothing_to_train_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    tuned = small_tuned()
    monkeypatch.setattr(tuned, "trainable", dict)
    with pytest.raises(TrainingError, match="Nothing in this model trains; apply a method"):
        build_optimizer(tuned, CONFIG)
