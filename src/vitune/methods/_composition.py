"""Which methods cannot be combined, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from vitune.methods._base import Method


@dataclass(frozen=True)
class Refusal:
    """Methods that cannot be combined with another one.

    Attributes:
        name: The one.
        others: The others.
        reason: Why.
    """

    name: str
    others: tuple[str, ...]
    reason: str


def refusals(methods: Mapping[str, type[Method]]) -> list[Refusal]:
    """All refused pairs of methods, each once, put together where the reason is the same.

    Args:
        methods: By name.
    """
    pairs: dict[str, list[tuple[str, str]]] = {}
    told: set[frozenset[str]] = set()
    for name, method in methods.items():
        for other, reason in method.conflicts.items():
            pair = frozenset((name, other))
            if other in methods and len(pair) == 2 and pair not in told:
                told.add(pair)
                pairs.setdefault(reason, []).append((name, other))
    return [refusal for reason, found in pairs.items() for refusal in _together(found, reason)]


def _together(pairs: list[tuple[str, str]], reason: str) -> list[Refusal]:
    """As few refusals as say all pairs of one reason: about the name that is in most of them, then the next."""
    made = []
    while pairs:
        counts = Counter(name for pair in pairs for name in pair)
        name = max(counts, key=lambda one: counts[one])
        others = tuple(two if one == name else one for one, two in pairs if name in (one, two))
        made.append(Refusal(name, others, reason))
        pairs = [pair for pair in pairs if name not in pair]
    return made
