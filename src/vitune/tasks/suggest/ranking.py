"""In what order methods are suggested, and the reason for each place.

Our own trials come first: among methods whose gains over a linear probe cannot be told apart by their 95 % intervals,
the quicker is the better where it is so by a quarter, else the one with the larger gain. Methods with published numbers
alone follow, in the order of these; then those without any.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vitune.tasks.suggest.evidence import BASELINE, Standing
from vitune.tasks.suggest.result import Costs


@dataclass(frozen=True)
class Place:
    """A method in its place, and why it stands there."""

    method: str
    reason: str


def rank(candidates: Sequence[tuple[str, Costs, Standing]]) -> list[Place]:
    """Put methods in order.

    Args:
        candidates: Method, costs and standing of each.
    """
    known = sorted(
        (entry for entry in candidates if entry[2].gain is not None),
        key=lambda entry: -(entry[2].gain or 0.0),
    )
    places: list[Place] = []
    first = True
    while known:
        best = known[0]
        group = [entry for entry in known if not _apart(best[2], entry[2])]
        least = min(entry[1].train_seconds for entry in group)
        group.sort(key=lambda entry: (_quarters(entry[1].train_seconds / least), -(entry[2].gain or 0.0)))
        places += [Place(entry[0], _reason(entry, group, first)) for entry in group]
        known = [entry for entry in known if entry not in group]
        first = False
    cited = [entry for entry in candidates if entry[2].gain is None and entry[2].published is not None]
    cited.sort(key=lambda entry: -(entry[2].published.gain if entry[2].published else 0.0))
    places += [
        Place(name, f"no trials of ours; published {_published(standing)}") for name, _, standing in cited
    ]
    named = {place.method for place in places}
    rest = sorted(
        (entry for entry in candidates if entry[0] not in named), key=lambda entry: entry[1].train_seconds
    )
    places += [Place(name, "nothing is known of its accuracy; by time alone") for name, _, _ in rest]
    return places


def _quarters(times: float) -> int:
    """How often a time is longer by a quarter; what is less is within the error of forecasts."""
    return math.floor(math.log(times) / math.log(1.25) + 1e-9)


def _apart(one: Standing, other: Standing) -> bool:
    """Whether the interval of the difference lies above 0; unknown intervals say nothing."""
    if one.half is None or other.half is None:
        return False
    return (one.gain or 0.0) - (other.gain or 0.0) > math.hypot(one.half, other.half)


def _reason(
    entry: tuple[str, Costs, Standing], group: Sequence[tuple[str, Costs, Standing]], first: bool
) -> str:
    name, costs, standing = entry
    if name == BASELINE:
        gain = "+0.0, the linear probe itself"
    else:
        gain = f"{points(standing)} over a linear probe in our trials"
    if len(group) == 1:
        return f"highest gain: {gain}" if first else gain
    times = costs.train_seconds / group[0][1].train_seconds
    if entry is group[0]:
        highest = max(group, key=lambda other: other[2].gain or 0.0)
        if highest is entry:
            return f"{'highest gain' if first else 'next'}: {gain}"
        return f"{gain}: not to be told from {highest[0]}, and quicker"
    return f"{gain}: not to be told from {group[0][0]}, {times:.1f} x its time"


def points(standing: Standing) -> str:
    """A gain in percentage points, with half of its interval."""
    if standing.gain is None:
        return "unknown"
    half = "" if standing.half is None else f" \u00b1 {100 * standing.half:.1f}"
    return f"{100 * standing.gain:+.1f}{half} points"


def _published(standing: Standing) -> str:
    assert standing.published is not None
    return f"{100 * standing.published.gain:+.1f} points over linear, {standing.published.source}"
