"""The gate: which tokens go through a part of the block.

Eval: `y = sigmoid(l)`; training: `y = sigmoid((l + G1 - G2) / tau)` with Gumbel noise G = -log(E), E ~ Exp(1). A token
is active where y > threshold, strictly, as in the released code (the paper writes >=). The mask has the value of the
decision and the gradient of y. (Sections 3.2 and 3.3; Dynamic-Tuning @ d1744f0, `models/model_image.py`.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

_TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class GateSettings:
    """What a gate needs to know.

    Attributes:
        temperature: tau in training, at the start.
        threshold: A token is active where y is above it.
        nominal_rate: The share of active patch tokens that costs are counted with where values are not known.
        hide_skipped: Whether attention in training does not see skipped tokens either.
    """

    temperature: float
    threshold: float
    nominal_rate: float
    hide_skipped: bool


class Decision(NamedTuple):
    """What a gate decided about the patch tokens, each (B, N) in float32.

    Attributes:
        logits: l, without noise.
        soft: y.
        mask: 1 or 0, with the gradient of y.
    """

    logits: Tensor
    soft: Tensor
    mask: Tensor


class Gate(nn.Module):
    """Scores tokens by a linear layer and decides which are active."""

    def __init__(self, width: int, prefix: int, settings: GateSettings) -> None:
        super().__init__()
        self.prefix, self.settings = prefix, settings
        self.temperature = settings.temperature
        self.score = nn.Linear(width, 1)
        nn.init.trunc_normal_(self.score.weight, std=0.02)
        nn.init.zeros_(self.score.bias)

    def forward(self, stream: Tensor) -> Decision:
        """Decide about the patch tokens of a stream (B, ..., D), prefix tokens first."""
        # All tokens are scored: cutting off the prefix first would copy the stream for the backward pass.
        logits = self.score(stream).squeeze(-1).flatten(1)[:, self.prefix :].float()
        soft = logits
        if self.training:
            soft = (logits + self.noise(logits)) / self.temperature
        soft = soft.sigmoid()
        hard = (soft > self.settings.threshold).to(soft.dtype)
        return Decision(logits, soft, hard + (soft - soft.detach()))

    def noise(self, like: Tensor) -> Tensor:
        """G1 - G2 for every score, in float32.

        From torch's generator, as dropout is: the training loop seeds it from (seed, step), and gradient
        checkpointing puts it back, so that the recomputed decisions are the same.
        """
        first, second = torch.empty((2, *like.shape), device=like.device).exponential_().clamp_min(_TINY)
        return second.log() - first.log()
