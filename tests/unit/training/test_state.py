from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import torch

from vitune.errors import RunError
from vitune.training.selection import Selection
from vitune.training.state import (
    Progress,
    below,
    check_same_settings,
    check_same_tensors,
    pack_policies,
    prefixed,
    unpack_policies,
)

from .small import small_config


class Remembering:
    def __init__(self, **state: Any) -> None:
        self.state = state

    def state_dict(self) -> dict[str, Any]:
        return self.state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = state


def test_progress_survives_json() -> None:
    progress = Progress(
        Selection(3, 2, 0.5, 0.1, 1), torch.tensor(1.5), 7, 1, 4, True, {"a": torch.ones(1)}, [{"epoch": 1}]
    )
    stored = json.loads(json.dumps(progress.to_json()))
    assert Progress.from_json(stored, progress.loss_sum, progress.best) == progress


def test_prefixes_are_taken_off_whole_names_only() -> None:
    tensors = {"a": torch.ones(1)}
    named = prefixed("ema", tensors) | prefixed("ema_other", tensors)
    assert below("ema", named) == tensors


def test_policies_get_back_their_tensors_and_their_json() -> None:
    policies = [Remembering(mask=torch.tensor([1.0]), stage=2), object(), Remembering(budget=0.5)]
    tensors, rest = pack_policies(policies)
    assert list(tensors) == ["policy/0/mask"]
    assert json.loads(json.dumps(rest)) == [{"stage": 2}, {}, {"budget": 0.5}]
    others = [Remembering(), object(), Remembering()]
    unpack_policies(others, tensors, rest)
    assert [policies[i].state for i in (0, 2)] == [others[i].state for i in (0, 2)]


def test_other_policies_are_refused() -> None:
    with pytest.raises(RunError, match="made with 2 policies but the model has 1; resume with the methods"):
        unpack_policies([object()], {}, [{}, {}])


def test_settings_that_change_the_result_must_be_those_of_the_run() -> None:
    config = small_config()
    free = dataclasses.replace(config, workers=5, checkpoint_steps=3, checkpoint_minutes=1.0)
    check_same_settings(free.to_dict(), config)
    other = dataclasses.replace(config, lr=0.5)
    with pytest.raises(
        RunError, match=r"started with lr 0.5 and cannot be resumed with 0.01; resume it with"
    ):
        check_same_settings(other.to_dict(), config)


def test_tensors_of_another_model_are_refused() -> None:
    here = {"a": torch.zeros(2), "b": torch.zeros(3)}
    check_same_tensors(dict(here), here)
    with pytest.raises(
        RunError, match=r"'b' is absent in it and \(3,\) here; resume with the model and methods"
    ):
        check_same_tensors({"a": torch.zeros(2)}, here)
    with pytest.raises(RunError, match=r"'a' is \(4,\) in it and \(2,\) here"):
        check_same_tensors({"a": torch.zeros(4), "b": torch.zeros(3)}, here)
