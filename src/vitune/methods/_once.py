"""One thing for several layers of a method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

Made = TypeVar("Made")


class Once(Generic[Made]):
    """Makes a parameter or a module for the first layer that asks and gives the same to the others.

    A plan can hold it: what was made is forgotten when the last layer has it, so that carrying the plan out again
    makes a new one and a pickled plan holds no weights.

    Args:
        make: Makes it.
        layers: How many layers ask.
    """

    def __init__(self, make: Callable[[], Made], layers: int) -> None:
        self._make, self._layers = make, layers
        self._made: Made | None = None
        self._left = 0

    def __call__(self) -> Made:
        """What the layers share."""
        if self._made is None:
            self._made, self._left = self._make(), self._layers
        made = self._made
        self._left -= 1
        if not self._left:
            self._made = None
        return made
