"""Searching for settings: what is proposed next, seeing only validation metrics of what was tried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from vitune.bench.selection import ValidationResult


@dataclass(frozen=True)
class Candidate:
    """Settings to try.

    Attributes:
        settings: Settings of training that override the fixed ones.
        methods: The methods with their settings; None: as the case spells them.
        point: Where it lies in the space that was searched, by the names of its dimensions.
    """

    settings: Mapping[str, Any]
    methods: str | None = None
    point: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Tried:
    """A candidate whose trial has ended.

    Attributes:
        candidate: What was tried.
        trial: Name of its trial.
        validation: What it gave on the validation split; None if it failed.
    """

    candidate: Candidate
    trial: str
    validation: ValidationResult | None


class Search(Protocol):
    """Proposes candidates in rounds.

    What it proposes must follow from what was tried, and from nothing else: a comparison that was killed, and each of
    several processes over one folder, asks again and must get the same answer.
    """

    def propose(self, tried: Sequence[Tried]) -> Sequence[Candidate]:
        """What to try next, all at the same time; nothing when the search is over.

        Args:
            tried: All candidates of earlier rounds, in order.
        """
        ...


@dataclass(frozen=True)
class Grid:
    """Candidates that are known from the start. A single one needs no trial.

    Attributes:
        settings: Settings of each.
    """

    settings: tuple[Mapping[str, Any], ...]

    def propose(self, tried: Sequence[Tried]) -> Sequence[Candidate]:
        """All of them, in one round."""
        return () if tried or len(self.settings) == 1 else tuple(Candidate(entry) for entry in self.settings)
