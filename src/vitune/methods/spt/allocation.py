"""From sensitivities and a budget to what is trained where (section 3.3 of the paper; `sensitivity.py`, official code).

For a number tau the tau most sensitive entries are selected. A matrix with at least cost / alpha selected entries
gets a module of that cost instead of them; a vector of length L with at least L / beta of them trains whole; all
other selected entries train one by one. 79 values of tau are tried, and the one whose total is nearest to the budget
is kept. tau is not the budget: a module usually costs more than the entries it stands for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vitune.errors import ConfigError
from vitune.methods.spt.candidates import Candidate, Structure
from vitune.methods.spt.ranking import Ranking

STEPS = 79
STEP = 0.02  # of the unit
# The official unit is a million, for a ViT-B/16 with so many candidate entries; other sizes in proportion.
UNIT, UNIT_CANDIDATES = 1e6, 85_056_000


@dataclass(frozen=True, kw_only=True)
class Rules:
    """When a tensor gets a module, trains whole, or trains entry by entry.

    Attributes:
        structure: Kind of module.
        rank: Its rank or bottleneck.
        alpha: A matrix gets its module from cost / alpha selected entries on.
        beta: A vector trains whole from length / beta selected entries on.
        structured_only: Whether single entries are neither trained nor counted.
        structured_vectors: Whether vectors may train whole.
        fixed: Parameters that always train and count: the class token's.
    """

    structure: Structure = "lora"
    rank: int = 8
    alpha: float = 10.0
    beta: float = 5.0
    structured_only: bool = False
    structured_vectors: bool = True
    fixed: int = 0


@dataclass(frozen=True)
class Sweep:
    """What every tau leads to; S steps, T candidates.

    Attributes:
        tau: Selected entries, (S,).
        counts: Of them in each candidate, (S, T).
        whole: Whether a candidate gets a module or trains whole, (S, T).
        structured: Parameters of modules and whole vectors, (S,).
        unstructured: Entries that train one by one, (S,).
        total: Both, and what always trains, (S,).
    """

    tau: Tensor
    counts: Tensor
    whole: Tensor
    structured: Tensor
    unstructured: Tensor
    total: Tensor


@dataclass(frozen=True)
class Allocation:
    """What is trained where.

    Attributes:
        tau: Number of entries that were selected.
        structured: Roles of the matrices with a module.
        vectors: Names of the vectors that train whole.
        positions: Selected places, (n,) int32 and rising, in each flattened candidate that trains entry by entry.
        counts: Selected entries of each candidate, before these decisions.
        structured_parameters: Of modules and whole vectors.
        unstructured_parameters: Entries that train one by one.
        total: Both, and the class token.
    """

    tau: int
    structured: tuple[str, ...]
    vectors: tuple[str, ...]
    positions: Mapping[str, Tensor]
    counts: Mapping[str, int]
    structured_parameters: int
    unstructured_parameters: int
    total: int


def sweep_unit(candidates: Sequence[Candidate], budget: float) -> float:
    """The unit of the sweep: the official one in proportion to the backbone, but never less than the budget."""
    return max(UNIT * sum(candidate.numel for candidate in candidates) / UNIT_CANDIDATES, float(budget))


def sweep_taus(unit: float) -> list[int]:
    """The numbers of selected entries to try: ceil(0.02 i unit) in double precision, i = 1 .. 79."""
    return [math.ceil((i * STEP) * unit) for i in range(1, STEPS + 1)]


def sweep(ranking: Ranking, candidates: Sequence[Candidate], rules: Rules, taus: Sequence[int]) -> Sweep:
    """Decide for every tau at once.

    Args:
        ranking: The most sensitive entries; as many as the largest tau, or all there are.
        candidates: The candidates of the ranking, in its order.
        rules: When what is trained how.
        taus: Numbers of entries to select, rising.
    """
    tau = torch.tensor(taus)
    counts = ranking.counts(tau)
    matrix = torch.tensor([candidate.is_matrix for candidate in candidates])
    costs = [c.module_parameters(rules.structure, rules.rank) if c.is_matrix else c.numel for c in candidates]
    needed = [
        cost / (rules.alpha if c.is_matrix else rules.beta) for c, cost in zip(candidates, costs, strict=True)
    ]
    whole = counts >= torch.tensor(needed, dtype=torch.float64)
    if not rules.structured_vectors:
        whole &= matrix
    structured = (whole * torch.tensor(costs)).sum(1)
    unstructured = torch.zeros_like(tau) if rules.structured_only else (counts * ~whole).sum(1)
    return Sweep(tau, counts, whole, structured, unstructured, structured + unstructured + rules.fixed)


def allocate(
    ranking: Ranking,
    candidates: Sequence[Candidate],
    budget: float,
    rules: Rules,
    *,
    unit: float | None = None,
) -> Allocation:
    """Keep the tau whose total is nearest to the budget; of equally near ones the largest.

    Args:
        ranking: The most sensitive entries, at least 1.58 times the unit, or all there are.
        candidates: The candidates of the ranking, in its order.
        budget: Trained parameters outside the head to aim at.
        rules: When what is trained how.
        unit: Size of the sweep, 50 times its step; chosen by the size of the backbone if not given.

    Raises:
        ConfigError: If no total is nearer to the budget than nothing is; names the nearest totals.
    """
    taus = sweep_taus(sweep_unit(candidates, budget) if unit is None else unit)
    tried = sweep(ranking, candidates, rules, taus)
    best, distance = None, float(budget)  # from a total of 0
    for step, total in enumerate(tried.total.tolist()):
        if abs(total - budget) <= distance:
            best, distance = step, abs(total - budget)
    if best is None:
        totals = sorted(set(tried.total.tolist()))
        nearest = " and ".join(f"{total:,}" for total in totals[:2])
        raise ConfigError(
            f"spt: a budget of {budget:,.0f} parameters cannot be reached: the nearest totals are {nearest}; "
            f"choose one of them, or a smaller unit."
        )
    return _allocation(ranking, candidates, rules, tried, best)


def _allocation(
    ranking: Ranking, candidates: Sequence[Candidate], rules: Rules, tried: Sweep, step: int
) -> Allocation:
    whole, tau = tried.whole[step].tolist(), int(tried.tau[step])
    positions = {
        candidate.name: ranking.positions(candidate.name, tau)
        for candidate, is_whole in zip(candidates, whole, strict=True)
        if not is_whole and not rules.structured_only
    }
    chosen = [candidate for candidate, is_whole in zip(candidates, whole, strict=True) if is_whole]
    return Allocation(
        tau=tau,
        structured=tuple(candidate.role for candidate in chosen if candidate.is_matrix),
        vectors=tuple(candidate.name for candidate in chosen if not candidate.is_matrix),
        positions=positions,
        counts=dict(zip(ranking.names, tried.counts[step].tolist(), strict=True)),
        structured_parameters=int(tried.structured[step]),
        unstructured_parameters=int(tried.unstructured[step]),
        total=int(tried.total[step]),
    )
