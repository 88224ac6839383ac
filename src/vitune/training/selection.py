"""Which epoch is kept, and when to stop early."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class Selection:
    """The best evaluation so far: higher accuracy, then lower loss, then the earlier one.

    Args:
        patience: Evaluations without improvement after which to stop; None never stops.
        epoch: Epoch of the best evaluation, from 1; 0 before the first.
        accuracy: Its accuracy, from 0 to 1.
        loss: Its loss.
        waited: Evaluations since then.
    """

    patience: int | None = None
    epoch: int = 0
    accuracy: float = -math.inf
    loss: float = math.inf
    waited: int = 0

    def update(self, epoch: int, accuracy: float, loss: float) -> bool:
        """Take one evaluation into account.

        Args:
            epoch: Its epoch, from 1.
            accuracy: Its accuracy, from 0 to 1.
            loss: Its loss.

        Returns:
            Whether it is the best so far.
        """
        if (accuracy, -loss) > (self.accuracy, -self.loss):
            self.epoch, self.accuracy, self.loss, self.waited = epoch, accuracy, loss, 0
            return True
        self.waited += 1
        return False

    @property
    def should_stop(self) -> bool:
        """Whether patience has run out."""
        return self.patience is not None and self.waited >= self.patience

    def state_dict(self) -> dict[str, Any]:
        """The fields as JSON values; infinities, which JSON has not, become null."""
        return {
            name: None if isinstance(value, float) and math.isinf(value) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Selection:
        """The inverse of `state_dict`.

        Args:
            state: What `state_dict` gave.
        """
        return cls(**{name: value for name, value in state.items() if value is not None})
