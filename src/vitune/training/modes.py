"""Training and evaluation mode, with frozen batch statistics kept still."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

if TYPE_CHECKING:
    from vitune.tuned import Tuned


def train_mode(tuned: Tuned) -> None:
    """Put the model into training mode, but leave batch norms in evaluation mode whose statistics are not
    trained.

    Otherwise a frozen backbone would change without the change being saved.

    Args:
        tuned: The model and what of it trains.
    """
    tuned.model.train()
    trained = tuned.state().keys()
    for path, module in tuned.model.named_modules():
        if isinstance(module, _BatchNorm) and f"{path}.running_mean" not in trained:
            module.eval()


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """While entered, the model is in evaluation mode; afterwards every module is in the mode it had.

    Args:
        model: The model.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
