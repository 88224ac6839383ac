from __future__ import annotations

import torch

from vitune.training.ema import Ema

from .small import small_tuned


def test_follows_the_formula_and_leaves_the_model_alone() -> None:
    tuned = small_tuned()
    start = {name: tensor.clone() for name, tensor in tuned.state().items()}
    ema = Ema(tuned, decay=0.75)
    with torch.no_grad():
        for parameter in tuned.trainable().values():
            parameter.add_(1.0)
    ema.update()
    for name, average in ema.tensors.items():
        assert torch.allclose(average, start[name] + 0.25)
        assert torch.equal(tuned.state()[name], start[name] + 1)


def test_is_applied_and_taken_off_again_bit_by_bit() -> None:
    tuned = small_tuned()
    ema = Ema(tuned, decay=0.5)
    with torch.no_grad():
        for parameter in tuned.trainable().values():
            parameter.add_(torch.randn_like(parameter))
    own = {name: tensor.clone() for name, tensor in tuned.state().items()}
    with ema.applied():
        assert all(torch.equal(tensor, ema.tensors[name]) for name, tensor in tuned.state().items())
    assert all(torch.equal(tensor, own[name]) for name, tensor in tuned.state().items())


def test_continues_from_what_was_saved() -> None:
    tuned = small_tuned()
    saved = {name: torch.full_like(tensor, 3.0) for name, tensor in tuned.state().items()}
    ema = Ema(tuned, decay=0.5)
    ema.load(saved)
    assert all(torch.equal(average, saved[name]) for name, average in ema.tensors.items())
    assert all(average is not saved[name] for name, average in ema.tensors.items())
