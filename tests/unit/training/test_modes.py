from __future__ import annotations

import torch
from torch import nn

from vitune.training.modes import evaluation_mode, train_mode

from .small import small_model, small_tuned


def test_frozen_batch_statistics_do_not_move() -> None:
    tuned = small_tuned(drop_rate=0.1)
    tuned.model.norm_pre = nn.BatchNorm1d(5)  # over the five tokens
    tuned.model.norm_pre.requires_grad_(False)
    train_mode(tuned)
    assert tuned.model.training
    assert tuned.model.pos_drop.training
    assert not tuned.model.norm_pre.training
    before = tuned.model.norm_pre.running_mean.clone()
    tuned(torch.randn(4, 3, 16, 16))
    assert torch.equal(tuned.model.norm_pre.running_mean, before)


def test_evaluation_mode_gives_every_module_its_mode_back() -> None:
    model = small_model().train()
    model.blocks[0].eval()
    modes = [module.training for module in model.modules()]
    with evaluation_mode(model):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == modes
