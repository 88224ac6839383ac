"""Every memory level on every family: the step of stock autograd, where blocks run image by image, too."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tests.contract.cases import ALL, randomise, tune
from tests.contract.families import FAMILIES, images
from tests.contract.steps import Step
from vitune.lean import LEVELS, Level, blocks
from vitune.methods.spt import structured

NO_ATTENTION = ("convnext", "hf_convnext", "mixer", "resnet", "as_mlp")


def step(text: str, family: str, level: Level) -> Step:
    return Step.of(randomise(tune(text, family)), images(family, 3), level)


@pytest.mark.parametrize("level", [level for level in LEVELS if level != "stock"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_level_changes_no_gradient(monkeypatch, family: str, level: Level):
    monkeypatch.setattr(blocks, "TOKENS", 1)
    step("full", family, level).assert_like(step("full", family, "stock"))


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in NO_ATTENTION])
def test_leanest_draws_what_fast_draws(monkeypatch, family: str):
    """Which draws less than stock where the last block runs for the tokens of the head alone."""
    monkeypatch.setattr(blocks, "TOKENS", 1)
    fast, leanest = (step("lora(rank=2,dropout=0.3)", family, level) for level in ("fast", "leanest"))
    leanest.assert_like(fast)
    assert torch.equal(leanest.generator, fast.generator)


@pytest.fixture
def nothing_dropped(monkeypatch) -> None:
    """The last block draws less where it runs for the tokens of the head alone; here nothing else may differ."""
    monkeypatch.setattr(F, "dropout", lambda x, *settings, **named: x)
    monkeypatch.setattr(structured, "path_factors", lambda *settings, **named: None)
    monkeypatch.setattr(structured, "dropout_mask", lambda *settings: (None, 1.0))


@pytest.mark.parametrize("level", ["fast", "leanest"])
@pytest.mark.parametrize("text", [text for text, family in ALL if family == "plain"])
@pytest.mark.usefixtures("nothing_dropped")
def test_a_level_changes_no_method(monkeypatch, text: str, level: Level):
    """Also in methods of several passes, each with its loss."""
    monkeypatch.setattr(blocks, "TOKENS", 1)
    step(text, "plain", level).assert_like(step(text, "plain", "stock"))
