"""What training tells to whoever watches it; the library itself prints nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

EventKind = Literal[
    "submitted", "plan", "start", "progress", "step", "epoch", "stage", "warning", "checkpoint", "final"
]


@dataclass(frozen=True)
class Event:
    """One thing that happened.

    Args:
        kind: What happened. "progress" comes after every step and is not logged, nor are "checkpoint" and
            "submitted", which says that a cluster was given the run; the others are the lines of the log.
        values: What is known about it, as JSON values; "progress" has `step`, `steps`, `epoch`, `epochs`,
            `images_per_second`, `data_wait_share` (share of the time spent waiting for data) and
            `seconds_left`.
    """

    kind: EventKind
    values: dict[str, Any] = field(default_factory=dict)


class OnEvent(Protocol):
    """A function that is told of every event."""

    def __call__(self, event: Event, /) -> None:
        """Take note of an event.

        Args:
            event: What happened.
        """


def ignore(event: Event) -> None:
    """The listener that does nothing.

    Args:
        event: What happened.
    """
