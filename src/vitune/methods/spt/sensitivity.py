"""How sensitive the loss is to every candidate (section 3.2 of the paper, eq. 3).

s = sum over batches of the squared gradient of the batch's mean cross-entropy, with the head as it was drawn and
before any step. To first order the loss falls by eps * g^2 when one entry takes one gradient step; eps is common to
all and left out. Not per image, not the square of the summed gradient.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitune.anatomy import anatomy, logits
from vitune.errors import TrainingError
from vitune.methods.spt.candidates import candidates

Batches = Iterable[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class SquaredGradients:
    """What a pass over some batches found.

    Attributes:
        sums: Sum over batches of squared gradients, by parameter name.
        losses: Mean cross-entropy of every batch.
    """

    sums: Mapping[str, Tensor]
    losses: tuple[float, ...]


def squared_gradients(
    model: nn.Module,
    names: Sequence[str],
    batches: Batches,
    *,
    most: int | None = None,
    noise: bool = False,
    seed: int = 0,
) -> SquaredGradients:
    """Run batches forward and backward and sum the squares of each batch's gradient.

    A gradient is added to its sum and dropped the moment it is there, so that never all of them exist at once. The
    model is afterwards as it was.

    Args:
        model: A backbone of a known family, with a head.
        names: Parameters to look at.
        batches: Images (B, channels, height, width) and labels (B,).
        most: Batches to use at most; all if not given.
        noise: Whether dropout and drop path act.
        seed: Of that noise.

    Raises:
        TrainingError: If there is no batch, or a loss is not finite.
    """
    parameters = {name: model.get_parameter(name) for name in names}
    sums = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in parameters.items()}
    device = next(model.parameters()).device
    before = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    losses: list[float] = []
    hooks = []
    model.train(noise)
    try:
        for parameter, _, _ in before:
            parameter.requires_grad_(False)
            parameter.grad = None
        for name, parameter in parameters.items():
            parameter.requires_grad_(True)
            hooks.append(parameter.register_post_accumulate_grad_hook(_Add(sums[name])))
        with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.enable_grad():
            torch.manual_seed(seed)
            for images, labels in islice(batches, most):
                loss = F.cross_entropy(logits(model, images.to(device)), labels.to(device))
                losses.append(loss.item())
                if not torch.isfinite(loss):
                    raise TrainingError(
                        f"spt: the loss of batch {len(losses)} of the sensitivity pass is {loss.item()}; "
                        f"check the images and the backbone's weights."
                    )
                loss.backward()
    finally:
        for hook in hooks:
            hook.remove()
        for parameter, trained, gradient in before:
            parameter.requires_grad_(trained)
            parameter.grad = gradient
        for module, mode in modes:
            module.training = mode
    if not losses:
        raise TrainingError("spt: the sensitivity pass got no batch; give it at least one.")
    return SquaredGradients(sums, tuple(losses))


class _Add:
    """Adds the square of a fresh gradient to a sum."""

    def __init__(self, total: Tensor) -> None:
        self.total = total

    def __call__(self, parameter: Tensor) -> None:
        gradient = parameter.grad
        assert gradient is not None
        self.total.addcmul_(gradient, gradient)
        parameter.grad = None


def sensitivity(
    model: nn.Module, batches: Batches, *, most: int = 16, noise: bool = False, seed: int = 0
) -> dict[str, Tensor]:
    """Sensitivity of every candidate of a plain backbone with a fresh head.

    Args:
        model: The backbone; left as it was.
        batches: Images (B, channels, height, width) and labels (B,), as the model is evaluated on them.
        most: Batches to use; fewer if there are fewer.
        noise: Whether the backbone's dropout and drop path act, as in the official code.
        seed: Of that noise.

    Returns:
        From a candidate's name, such as `blocks.0.attn.q.weight`, to float32 of its shape, in the order of the
        forward pass.

    Raises:
        UnsupportedBackboneError: If the model is of no known family.
        TrainingError: If there is no batch, a loss is not finite, or no gradient reaches the backbone.
    """
    found = candidates(anatomy(model))
    paths = list(dict.fromkeys(candidate.path for candidate in found))
    sums = squared_gradients(model, paths, batches, most=most, noise=noise, seed=seed).sums
    if not any(total.any() for total in sums.values()):
        raise TrainingError(
            "spt: every sensitivity is zero, since no gradient passes the head; draw the head's weights at random."
        )
    return {c.name: sums[c.path] if c.rows is None else sums[c.path][c.rows] for c in found}
