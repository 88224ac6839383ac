"""The gate: after an edit every trained parameter must be reached by a gradient.

Some models read a layer's weight without calling the layer (`F.linear(x, self.qkv.weight, ...)`), so that an edit of
that layer changes nothing and nobody notices. One backward pass finds out.
"""

from __future__ import annotations

import torch
from torch import nn

from vitune.anatomy import Anatomy, example, logits
from vitune.errors import SurgeryError

# Attribute of a module that computes with some of its parameters in training alone.
GATED_IN_TRAINING = "gated_in_training"


def gate(anatomy: Anatomy, trained: dict[str, nn.Parameter]) -> None:
    """Run one image (or a few tokens) forward and backward; change neither gradients, random state nor buffers.

    Args:
        anatomy: The anatomy of the edited model.
        trained: Path to parameter, of everything that is to train.

    Raises:
        SurgeryError: If a parameter gets no gradient; names the first ones.
    """
    model = anatomy.model
    like = next(p for p in model.parameters() if p.is_floating_point())
    modes = {name: module.training for name, module in model.named_modules()}
    devices = [like.device] if like.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.enable_grad():
        model.eval()  # so that neither dropout nor batch statistics act
        for module in model.modules():
            if getattr(module, GATED_IN_TRAINING, False):
                module.training = True
        try:
            torch.manual_seed(0)
            loss = logits(model, example(anatomy)).float().square().sum()
            if loss.requires_grad:
                gradients = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
            else:
                gradients = (None,) * len(trained)
        finally:
            for name, module in model.named_modules():
                module.training = modes[name]
    dead = [name for name, gradient in zip(trained, gradients, strict=True) if gradient is None]
    if dead:
        listed = ", ".join(anatomy.role_of(name) for name in dead[:3]) + (" ..." if len(dead) > 3 else "")
        raise SurgeryError(
            f"{len(dead)} of {len(trained)} trained tensors get no gradient in {type(model).__name__} ({listed}): "
            f"the model does not call these layers, so the edit would do nothing; leave these roles out."
        )
