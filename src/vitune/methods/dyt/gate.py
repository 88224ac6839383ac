"""The gate: which tokens go through a part of the block.

Eval: `y = sigmoid(l)`; training: `y = sigmoid((l + G1 - G2) / tau)` with Gumbel noise G = -log(E), E ~ Exp(1). A token
is active where y > threshold, strictly, as in the released code (the paper writes >=). The mask has the value of the
decision and the gradient of y. (Sections 3.2 and 3.3; Dynamic-Tuning @ d1744f0, `models/model_image.py`.)

Two controls of the paper's ablation, of which there is no code: one decision for all patches of an image (here l is the
mean of their scores, with one draw of noise), and decisions at random, with no scores at all. What is random in
evaluation is a fixed pattern of places, so that an image is treated the same in any batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

DecideBy = Literal["token", "image", "random"]
_TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class GateSettings:
    """What a gate needs to know.

    Attributes:
        temperature: tau in training, at the start.
        threshold: A token is active where y is above it.
        nominal_rate: The share of active patch tokens that costs are counted with where values are not known.
        hide_skipped: Whether attention in training does not see skipped tokens either.
        decide_by: Every `token`'s score, the mean score of an `image`, or at `random`, at the nominal rate.
        pattern: Number of the pattern of a random gate in evaluation.
    """

    temperature: float
    threshold: float
    nominal_rate: float
    hide_skipped: bool
    decide_by: DecideBy = "token"
    pattern: int = 0


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
        if settings.decide_by == "random":
            return
        self.score = nn.Linear(width, 1)
        nn.init.trunc_normal_(self.score.weight, std=0.02)
        nn.init.zeros_(self.score.bias)

    def forward(self, stream: Tensor) -> Decision:
        """Decide about the patch tokens of a stream (B, ..., D), prefix tokens first."""
        if self.settings.decide_by == "random":
            return self._random(stream)
        # All tokens are scored: cutting off the prefix first would copy the stream for the backward pass.
        logits = self.score(stream).squeeze(-1).flatten(1)[:, self.prefix :].float()
        tokens = logits.shape[1]
        if self.settings.decide_by == "image":
            logits = logits.mean(1, keepdim=True)
        soft = logits
        if self.training:
            soft = (logits + self.noise(logits)) / self.temperature
        soft = soft.sigmoid()
        hard = (soft > self.settings.threshold).to(soft.dtype)
        mask = hard + (soft - soft.detach())
        if self.settings.decide_by == "image":
            logits, soft, mask = (one.expand(-1, tokens) for one in (logits, soft, mask))
        return Decision(logits, soft, mask)

    def _random(self, stream: Tensor) -> Decision:
        """Every patch is kept with the nominal rate: drawn anew in training, by its place in evaluation."""
        rate = self.settings.nominal_rate
        shape = stream.shape[0], stream[0].numel() // stream.shape[-1] - self.prefix
        if self.training:
            draw = torch.rand(shape, device=stream.device)
        else:
            draw = scattered(torch.arange(shape[1], device=stream.device), self.settings.pattern).expand(
                shape
            )
        mask = (draw < rate).to(torch.float32)
        soft = torch.full_like(mask, rate)
        return Decision(soft.logit(), soft, mask)

    def noise(self, like: Tensor) -> Tensor:
        """G1 - G2 for every score, in float32.

        From torch's generator, as dropout is: the training loop seeds it from (seed, step), and gradient
        checkpointing puts it back, so that the recomputed decisions are the same.
        """
        first, second = torch.empty((2, *like.shape), device=like.device).exponential_().clamp_min(_TINY)
        return second.log() - first.log()


def scattered(places: Tensor, pattern: int) -> Tensor:
    """Numbers in [0, 1) that look random, a function of whole numbers alone; two rounds of a 32-bit mixer.

    Args:
        places: Whole numbers (n,).
        pattern: Which of many such functions.
    """
    x = places.to(torch.int64) + 0x9E3779B9 * (pattern + 1)
    for factor in (0x7FEB352D, 0x846CA68B):
        x = x & 0xFFFFFFFF
        x = ((x ^ (x >> 16)) * factor) & 0xFFFFFFFF
    return (x ^ (x >> 15)).to(torch.float64) / 2**32
