"""Running statistics: still where the backbone is frozen, trained where everything is."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

import vitune
from vitune.methods import parse
from vitune.training import modes

ARGUMENTS = {"layers": (1, 1, 1, 1), "channels": (8, 8, 8, 8), "stem_width": 8, "num_classes": 3}


def resnet() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("resnet18", **ARGUMENTS)


def statistics(model: nn.Module) -> dict[str, torch.Tensor]:
    return {n: b.clone() for n, b in model.named_buffers() if "running" in n or "tracked" in n}


def step(model: nn.Module) -> None:
    model(torch.randn(2, 3, 64, 64)).sum().backward()


@pytest.mark.parametrize("text", ["linear", "bitfit", "ssf"])
def test_a_frozen_backbone_keeps_its_statistics_in_training_mode(text):
    model = resnet()
    tuned = vitune.apply(model, parse(text))
    before = statistics(model)
    tuned.model.train()
    step(model)
    assert model.training
    assert not model.bn1.training
    assert all(torch.equal(b, before[n]) for n, b in statistics(model).items())
    assert not any("running" in name for name in tuned.state())


def test_full_fine_tuning_collects_statistics_and_they_belong_to_the_adapter(tmp_path):
    model = resnet()
    tuned = vitune.apply(model, vitune.Full())
    before = statistics(model)
    modes.train_mode(tuned)
    step(model)
    changed = {n for n, b in statistics(model).items() if not torch.equal(b, before[n])}
    assert changed == before.keys()
    assert changed <= tuned.state().keys()
    model.eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = tuned(x)
        tuned.save(tmp_path)
        assert torch.equal(vitune.load(tmp_path, model=resnet())(x), expected)


@pytest.mark.parametrize("training", [True, False])
def test_detach_and_merge_give_the_norms_their_own_class_back(training):
    for undo in (lambda t: t.detach(), lambda t: t.merge()):
        model = resnet().train(training)
        before = [(n, type(m), m.training) for n, m in model.named_modules()]
        tuned = vitune.apply(model, vitune.SSF())
        assert type(model.bn1) is not nn.BatchNorm2d
        undo(tuned)
        assert [(n, type(m), m.training) for n, m in model.named_modules()] == before


def test_the_norm_of_a_new_layer_is_left_alone():
    from vitune.surgery import Edit, attach, hold, release

    class Normed(Edit):
        key = "normed"

    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    attach(model[0], Normed, nn.BatchNorm1d(2))
    held, changing = hold(model, set())
    assert held == ("1",)
    assert changing == ()
    model.train()
    assert model[0].vitune.normed.training
    release(model, held)
    assert type(model[1]) is nn.BatchNorm1d
