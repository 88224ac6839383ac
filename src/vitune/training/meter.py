"""How fast training goes, and how much of the time it waits for data."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Meter:
    """Clocks of one epoch, or of what is left of one when a run is resumed."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._waiting = 0.0
        self._images = 0
        self._steps = 0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The time spent inside counts as waiting for data."""
        start = time.perf_counter()
        yield
        self._waiting += time.perf_counter() - start

    def stepped(self, images: int) -> None:
        """Count a step.

        Args:
            images: Its images, over all processes.
        """
        self._images += images
        self._steps += 1

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._start

    @property
    def images_per_second(self) -> float:
        """Images trained on per second."""
        return self._images / max(self.seconds, 1e-9)

    @property
    def data_wait_share(self) -> float:
        """Share of the time spent waiting for data, from 0 to 1."""
        return self._waiting / max(self.seconds, 1e-9)

    def seconds_left(self, steps: int) -> float | None:
        """Seconds that so many more steps will take at this pace; None before the first step.

        Args:
            steps: Steps to come.
        """
        return steps * self.seconds / self._steps if self._steps else None
