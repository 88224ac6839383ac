"""Budget rules beside the published one: a schedule, and a controller that meets a given share of the FLOPs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vitune.methods.alast.selection import Count, kept_patches


def scheduled(first: float, last: float, dense_share: float, share: float) -> float:
    """The budget at a point of the run: from `first` linearly to `last`, then 1 for what is left.

    Args:
        first: Budget at the start.
        last: Budget at the end of the line.
        dense_share: Part of the run, its end, in which all tokens stay.
        share: Part of the run that is done, in [0, 1].
    """
    line = 1 - dense_share
    if share >= line:
        return 1.0 if dense_share > 0 else last
    return first + (last - first) * share / line


@dataclass(frozen=True)
class Importance:
    """How much each block changes the class token beside the others, smoothed over steps.

    Attributes:
        weights: One per block, mean 1.
        seen: Whether a step was seen; before it all blocks count the same.
    """

    weights: tuple[float, ...]
    seen: bool = False

    @classmethod
    def start(cls, blocks: int) -> Importance:
        """All the same."""
        return cls((1.0,) * blocks)

    def with_deltas(self, deltas: Sequence[float], smoothing: float) -> Importance:
        """With one more step; unchanged where a delta is not finite.

        Args:
            deltas: Of all blocks; their scale plays no part.
            smoothing: Share of the old weights.
        """
        total = sum(deltas)
        if not math.isfinite(total) or total <= 0:
            return self
        now = [delta * len(deltas) / total for delta in deltas]
        if not self.seen:
            return Importance(tuple(now), True)
        mixed = (smoothing * old + (1 - smoothing) * new for old, new in zip(self.weights, now, strict=True))
        return Importance(tuple(mixed), True)


def target_budgets(
    weights: Sequence[float],
    target: float,
    *,
    patches: int,
    width: int,
    trained: int,
    limits: tuple[float, float],
    count: Count,
    step: int = 1,
) -> list[float]:
    """Budgets under which a step costs a given share of full fine-tuning; important blocks drop fewer tokens.

    Block l keeps exp(-s / sqrt(w_l)) of its tokens, within the limits; s is found by bisection.

    Args:
        weights: Importance of the blocks, mean 1.
        target: Share of the multiply-accumulates of full fine-tuning, in the blocks.
        patches: Patch tokens of an image.
        width: D.
        trained: Blocks that train in a step; which ones is drawn, so that the cost is their mean.
        limits: Smallest and largest budget.
        count: How tokens are counted.
        step: Patches stay in multiples of it.
    """
    blocks = len(weights)
    full = blocks * _macs(patches + 1, width, 1.0)

    def budgets(s: float) -> list[float]:
        return [min(max(math.exp(-s / math.sqrt(max(w, 1e-3))), limits[0]), limits[1]) for w in weights]

    def cost(s: float) -> float:
        left, total = patches, 0.0
        for budget in budgets(s):
            total += _macs(left + 1, width, trained / blocks)
            left = kept_patches(budget, left, count, step)
        return total / full

    low, high = 0.0, 8.0
    for _ in range(48):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(middle) > target else (low, middle)
    return budgets(high)


def _macs(tokens: int, width: int, trained: float) -> float:
    """Multiply-accumulates of one block, forward and backward, of which a share is trained: 24 n d^2 + 7 n^2 d, and
    12 n d^2 for the weights (fused attention computes its scores again)."""
    return (24 + 12 * trained) * tokens * width**2 + 7 * tokens**2 * width
