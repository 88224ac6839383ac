from __future__ import annotations

import pytest
import torch
from torch import nn

from vitune.errors import UnsupportedBackboneError
from vitune.training.recompute import enable_recomputation

from .small import small_tuned


def test_gradients_behind_a_frozen_stem_are_those_without_recomputation() -> None:
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    gradients = []
    for recompute in (False, True):
        tuned = small_tuned()
        if recompute:
            enable_recomputation(tuned.model)
        tuned.model.train()
        tuned(images).square().sum().backward()
        gradients.append({name: parameter.grad for name, parameter in tuned.trainable().items()})
    assert all(torch.allclose(gradient, gradients[1][name]) for name, gradient in gradients[0].items())


def test_a_model_that_cannot_do_it_is_named() -> None:
    with pytest.raises(UnsupportedBackboneError, match="Linear cannot recompute its blocks; train without"):
        enable_recomputation(nn.Linear(1, 1))
