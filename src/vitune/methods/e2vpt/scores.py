"""How much every prompt token and every segment of it matters, and which to prune.

Section "Pruning" of the paper: the score of a mask is the mean over the data of |d loss / d mask|; the lowest are
pruned. `evaluation/` of the reference takes the mean without the magnitude.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitune.errors import ConfigError
from vitune.methods.e2vpt.layers import Masks

if TYPE_CHECKING:
    from vitune.tuned import Tuned

Sign = Literal["abs", "signed"]
Per = Literal["batch", "image"]
TokenScore = Literal["removal", "segments", "gradient"]
TINY = 1e-20  # keeps a norm of nothing from dividing by 0


@dataclass(frozen=True)
class Importance:
    """Scores in float64; the lowest matter least.

    Attributes:
        tokens: (p,).
        segments: (p, S).
    """

    tokens: Tensor
    segments: Tensor

    def normalised(self) -> Importance:
        """Divided by the norm over all tokens, and over the segments of each token; the order stays."""
        tokens = self.tokens / (self.tokens.norm() + TINY)
        return Importance(tokens, self.segments / (self.segments.norm(dim=1, keepdim=True) + TINY))


def importance(
    tuned: Tuned,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    sign: Sign = "abs",
    per: Per = "batch",
    tokens: TokenScore = "removal",
) -> Importance:
    """Score the prompts of a model in evaluation mode, where its masks are; nothing of it changes.

    Args:
        tuned: A model tuned by E2VPT with masks.
        batches: Images (B, channels, height, width) and labels (B,); every batch has the same weight.
        sign: Whether gradients count by magnitude (paper) or with their sign (reference's code).
        per: Whether a magnitude is taken of the gradient of a `batch`'s mean loss or of every `image`'s loss.
        tokens: How a token is scored: by what its `removal` does to the loss, by the sum of the magnitudes of its
            `segments`' scores times their masks, or by the `gradient` of its mask, which is next to nothing where a
            LayerNorm takes out the scale of a token.

    Raises:
        ConfigError: If the model has no masks, or there are no batches.
    """
    masks = masks_of(tuned.model)
    names = ("token", "segment")
    sums = [torch.zeros_like(getattr(masks, name), dtype=torch.float64).detach() for name in names]
    removal, count = torch.zeros_like(sums[0]), 0
    with _evaluating(tuned.model), _with_gradients(masks):
        for images, labels in _split(batches, per):
            gradients = torch.autograd.grad(
                F.cross_entropy(tuned(images), labels), (masks.token, masks.segment)
            )
            for total, gradient in zip(sums, gradients, strict=True):
                total += gradient.double().abs() if sign == "abs" else gradient.double()
            if tokens == "removal":
                removal += _removal(tuned, masks, images, labels)
            count += 1
    if not count:
        raise ConfigError("e2vpt: there are no batches to score the prompts on.")
    token_score, segment_score = (total / count for total in sums)
    if tokens == "removal":
        token_score = removal / count
    elif tokens == "segments":
        token_score = (segment_score * masks.segment.detach().double()).abs().sum(dim=1)
    return Importance(token_score, segment_score)


def masks_of(model: nn.Module) -> Masks:
    """The masks of a tuned model.

    Raises:
        ConfigError: If it has none.
    """
    for module in model.modules():
        if isinstance(module, Masks):
            return module
    raise ConfigError("e2vpt: the model has no masks; apply e2vpt with masks=trained or masks=fixed.")


def pruning_counts(
    number: int, kept: int, percentages: Sequence[int] = tuple(range(10, 100, 10))
) -> list[int]:
    """How many of a number of things to prune, for rising percentages; each count once.

    Args:
        number: Tokens p, or segments S of a token.
        kept: How many stay at least: of tokens 1, of segments 4.
        percentages: The shares tried.
    """
    return sorted({pruning_count(number, kept, share) for share in percentages})


def pruning_count(number: int, kept: int, percentage: int) -> int:
    """The share of a number in whole things, rounded down, so that some are kept."""
    return min(number * percentage // 100, max(number - kept, 0))


def lowest(scores: Tensor, count: int) -> Tensor:
    """A mask of 0 and 1 that prunes the lowest scores along the last dimension; of equal ones the first."""
    order = scores.argsort(dim=-1, stable=True)[..., :count]
    return torch.ones_like(scores).scatter(-1, order, 0.0)


def _removal(tuned: Tuned, masks: Masks, images: Tensor, labels: Tensor) -> Tensor:
    """By how much the loss rises without each token, (p,)."""
    with torch.no_grad():
        before = F.cross_entropy(tuned(images), labels).double()
        effects = []
        for i in range(masks.token.shape[0]):
            value = masks.token[i].clone()
            masks.token[i] = 0.0
            effects.append(F.cross_entropy(tuned(images), labels).double() - before)
            masks.token[i] = value
    return torch.stack(effects)


def _split(batches: Iterable[tuple[Tensor, Tensor]], per: Per) -> Iterator[tuple[Tensor, Tensor]]:
    for images, labels in batches:
        if per == "batch":
            yield images, labels
        else:
            yield from zip(images.split(1), labels.split(1), strict=True)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def _with_gradients(masks: Masks) -> Iterator[None]:
    """Masks that rest, or are buffers, have gradients for a while, those of pruned tokens too."""
    before = masks.token.requires_grad, masks.segment.requires_grad
    settled, masks.settled_for = masks.settled_for, None
    for mask in (masks.token, masks.segment):
        mask.requires_grad_(True)
    try:
        with torch.enable_grad():
            yield
    finally:
        masks.settled_for = settled
        for mask, needed in zip((masks.token, masks.segment), before, strict=True):
            mask.requires_grad_(needed)
