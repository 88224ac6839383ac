from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

import vitune
from vitune.training import feature_cache, fit, load_checkpoint
from vitune.training.config import TrainConfig
from vitune.training.devices import make_accelerator
from vitune.training.feature_cache import cached_features
from vitune.tuned import Tuned

from .small import small_config, small_data, small_tuned, without_clock

CONFIG = dataclasses.replace(small_config(), augment="none", label_smoothing=0.1)


def is_cached(tuned: Tuned, config: TrainConfig = CONFIG) -> bool:
    return cached_features(tuned, small_data(), config, make_accelerator("cpu", "fp32")) is not None


def test_gives_the_training_of_the_slow_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ends = []
    for name, limit in (("quick", 1 << 30), ("slow", 0)):
        monkeypatch.setattr(feature_cache, "_LIMIT_BYTES", limit)
        directory = tmp_path / name
        directory.mkdir()
        events = []
        tuned = small_tuned(vitune.LinearProbe())
        result = fit(tuned, small_data(), CONFIG, directory=directory, on_event=events.append)
        assert events[0].values["feature_cache"] == (name == "quick")
        ends.append((result, tuned.state(), load_checkpoint(directory / "checkpoint")))
    (quick, quick_state, quick_saved), (slow, slow_state, slow_saved) = ends
    for ours, theirs in zip(quick.epochs, slow.epochs, strict=True):
        assert without_clock(ours) == pytest.approx(without_clock(theirs), abs=1e-5)
    for name, tensor in quick_state.items():
        assert torch.allclose(tensor, slow_state[name], atol=1e-5)
    assert quick_saved.tensors.keys() == slow_saved.tensors.keys()


def test_is_used_for_a_head_on_features_that_never_change() -> None:
    assert is_cached(small_tuned(vitune.LinearProbe()))
    assert is_cached(small_tuned(vitune.LinearProbe(), global_pool="avg"))


@pytest.mark.parametrize("method", [vitune.LoRA(rank=2), vitune.BitFit(), vitune.Full()])
def test_is_not_used_where_more_than_the_head_trains(method: vitune.Method) -> None:
    assert not is_cached(small_tuned(method))


@pytest.mark.parametrize(
    "rate", ["drop_rate", "pos_drop_rate", "attn_drop_rate", "drop_path_rate", "proj_drop_rate"]
)
def test_is_not_used_where_features_are_random_in_training(rate: str) -> None:
    assert not is_cached(small_tuned(vitune.LinearProbe(), **{rate: 0.01}))


@pytest.mark.parametrize(
    "changes", [{"augment": "light"}, {"mixup": 0.2}, {"cutmix": 0.2}, {"drop_path": 0.1}]
)
def test_is_not_used_where_images_are_random(changes: dict[str, object]) -> None:
    assert not is_cached(small_tuned(vitune.LinearProbe()), dataclasses.replace(CONFIG, **changes))


def test_leaves_the_model_as_it_is() -> None:
    tuned = small_tuned(vitune.LinearProbe())
    tuned.model.train()
    assert is_cached(tuned)
    assert all(module.training for module in tuned.model.modules())
    assert not any(module._forward_pre_hooks for module in tuned.model.modules())
