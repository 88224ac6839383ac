"""Choosing a memory level: by size, by hand, or not at all."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import timm
import torch
from accelerate import Accelerator
from torch import nn

import vitune
from vitune.errors import ConfigError
from vitune.measure import forecast_peak
from vitune.tasks import memory_plan
from vitune.tasks.memory_plan import hold_to_plan, parse_bytes, plan_memory
from vitune.training.config import TrainConfig

SIZE = (3, 32, 32)


def tuned() -> vitune.Tuned:
    model: nn.Module = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=4, embed_dim=32, depth=3, num_heads=2, num_classes=3
    )
    return vitune.apply(model, vitune.LoRA(rank=2))


@pytest.mark.parametrize(
    ("text", "size"), [("4GB", 4 * 10**9), ("1.5G", 1_500_000_000), ("800MiB", 800 * 2**20), ("1000", 1000)]
)
def test_sizes_are_read(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "four", "0GB", "-1GB", "4TB"])
def test_what_is_no_size_is_named(text):
    with pytest.raises(ConfigError, match=rf"fit_memory is '{text}'; write a size such as 4GB"):
        parse_bytes(text)


def test_auto_leaves_small_steps_alone_and_makes_large_ones_lean(monkeypatch):
    handle = tuned()
    config, sentence = plan_memory(handle, TrainConfig(batch_size=4), SIZE, Accelerator(cpu=True))
    assert (config.memory, handle.memory, sentence) == ("stock", "stock", None)
    monkeypatch.setattr(memory_plan, "FAST_FROM", 1000)
    config, _ = plan_memory(handle, TrainConfig(batch_size=4), SIZE, Accelerator(cpu=True))
    assert (config.memory, handle.memory) == ("fast", "fast")


def test_a_level_that_was_asked_for_is_taken():
    handle = tuned()
    config, _ = plan_memory(handle, TrainConfig(batch_size=4, memory="lean"), SIZE, Accelerator(cpu=True))
    assert (config.memory, handle.memory) == ("lean", "lean")


def test_the_first_level_that_fits_is_taken():
    handle = tuned()
    peaks = {}
    for level in ("stock", "fast", "lean", "leaner"):
        handle.memory = level
        peaks[level] = forecast_peak(handle.model, (8, *SIZE))
    assert sorted(peaks.values(), reverse=True) == list(peaks.values())
    for level, peak in peaks.items():
        config = TrainConfig(batch_size=8, fit_memory=str(peak))
        chosen, sentence = plan_memory(handle, config, SIZE, Accelerator(cpu=True))
        assert (chosen.memory, chosen.accumulate, handle.memory) == (level, 1, level)
        assert sentence is not None
        assert f"memory {level};" in sentence


def test_batches_are_cut_where_no_level_is_enough():
    handle = tuned()
    handle.memory = "leanest"
    limit = forecast_peak(handle.model, (2, *SIZE))
    config = TrainConfig(batch_size=8, fit_memory=str(limit))
    chosen, sentence = plan_memory(handle, config, SIZE, Accelerator(cpu=True))
    assert chosen.accumulate == 4
    assert "every batch cut into 4 parts" in (sentence or "")


@pytest.mark.parametrize(
    ("limit", "device", "told"), [("1GB", "cpu", True), (None, "cpu", False), ("1GB", "cuda", False)]
)
def test_freed_memory_goes_back_where_a_cpu_has_a_limit(monkeypatch, limit, device, told):
    calls = []
    monkeypatch.setattr(memory_plan, "return_freed_memory", lambda: calls.append(1) or True)
    accelerator = SimpleNamespace(device=torch.device(device))
    sentence = hold_to_plan(TrainConfig(batch_size=4, fit_memory=limit), accelerator)
    assert (len(calls), sentence is not None) == (told, told)
    assert not told or "freed memory goes back to the system" in sentence


def test_what_cannot_fit_is_refused_with_the_least():
    with pytest.raises(
        ConfigError, match=r"fit_memory 1KB: the least that a step of this model holds is 0\.00 GB"
    ):
        plan_memory(tuned(), TrainConfig(batch_size=4, fit_memory="1KB"), SIZE, Accelerator(cpu=True))
