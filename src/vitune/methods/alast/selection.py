"""The arithmetic of ALaST: which blocks train, how budgets move, how many tokens stay. Plain numbers, no tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from vitune.randomness import derive_seed

Selection = Literal["softmax_sample", "linear_sample", "topk"]
SELECTIONS = get_args(Selection)
Count = Literal["with_class", "patches"]
COUNTS = get_args(Count)


def probabilities(budgets: Sequence[float], selection: Selection = "softmax_sample") -> list[float]:
    """With what weight each block is drawn: softmax of the budgets, or the budgets over their sum.

    Args:
        budgets: One per block.
        selection: `topk` has the weights of `linear_sample`, which it does not use.
    """
    if selection == "softmax_sample":
        largest = max(budgets)
        weights = [math.exp(budget - largest) for budget in budgets]
    else:
        weights = list(budgets) if sum(budgets) > 0 else [1.0] * len(budgets)
    total = sum(weights)
    return [weight / total for weight in weights]


def gumbel_noise(seed: int, step: int, blocks: int) -> list[float]:
    """Gumbel(0, 1) noise, a function of the seed and the step."""
    generator = np.random.default_rng(derive_seed(seed, "alast", step))
    return [float(noise) for noise in generator.gumbel(size=blocks)]


def select(budgets: Sequence[float], k: int, selection: Selection, noise: Sequence[float]) -> tuple[int, ...]:
    """The blocks that train: K drawn one after the other without replacement, or the K largest budgets.

    Drawing in turn, each time from the weights of those that are left, is the same as taking the largest of
    log p + Gumbel noise.

    Args:
        budgets: One per block.
        k: How many.
        selection: How.
        noise: Gumbel noise, one per block; not used by `topk`, where ties go to the lower block.

    Returns:
        Block numbers, ascending.
    """
    if selection == "topk":
        scores = list(budgets)
    else:
        weights = probabilities(budgets, selection)
        logs = [math.log(weight) if weight > 0 else -math.inf for weight in weights]
        scores = [log + one for log, one in zip(logs, noise, strict=True)]
    order = sorted(range(len(budgets)), key=lambda block: (-scores[block], block))
    return tuple(sorted(order[:k]))


def inclusion(weights: Sequence[float], k: int, nodes: int = 128) -> list[float]:
    """The probability of each block to be among the K drawn.

    Block i is drawn at an exponential time of rate p_i; it is in where fewer than K others came before it. With
    t = -L log u the integral over t is one over (0, 1) of a smooth function, done by Gauss-Legendre quadrature.

    Args:
        weights: Of the blocks, summing to 1.
        k: How many are drawn.
        nodes: Of the quadrature.
    """
    blocks = len(weights)
    if k >= blocks:
        return [1.0] * blocks
    points, areas = np.polynomial.legendre.leggauss(nodes)
    u = (points + 1) / 2
    p = np.asarray(weights, dtype=float)
    late = u[None] ** (blocks * p[:, None])  # the share of each block that is still to come, (L, nodes)
    found = []
    for i in range(blocks):
        before = np.zeros((k, nodes))  # probability that so many others came, up to K - 1
        before[0] = 1.0
        for j in range(blocks):
            if j != i:
                shifted = np.vstack([np.zeros((1, nodes)), before[:-1]])
                before = before * late[j] + shifted * (1 - late[j])
        density = blocks * p[i] * u ** (blocks * p[i] - 1)
        found.append(float((areas / 2 * density * before.sum(0)).sum()))
    return found


def next_budget(
    budget: float, delta: float, previous: float, rate: float, limits: tuple[float, float]
) -> float:
    """b + rate (D - D before), clipped; the budget as it is where D is not finite.

    Args:
        budget: b.
        delta: D of this step.
        previous: D of the step before.
        rate: Budget learning rate.
        limits: Smallest and largest budget.
    """
    if not math.isfinite(delta):
        return budget
    return min(max(budget + rate * (delta - previous), limits[0]), limits[1])


def kept_patches(budget: float, patches: int, count: Count = "with_class", step: int = 1) -> int:
    """How many patch tokens stay behind a block.

    Args:
        budget: b.
        patches: Patch tokens that entered.
        count: `with_class`: floor(b n) of n tokens, the class token counted; `patches`: floor(b (n - 1)), at least 1.
        step: Rounded up to a multiple of it.
    """
    if count == "patches":
        kept = max(1, math.floor(budget * patches))
    else:
        kept = math.floor(budget * (patches + 1))
    return min(-(-kept // step) * step, patches)
