"""What ALaST does during training: draw the blocks that train, move the budgets, log both."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from vitune.methods._base import Policy, Run
from vitune.methods.alast.rules import Importance
from vitune.methods.alast.selection import gumbel_noise, select
from vitune.methods.alast.steering import Steering

if TYPE_CHECKING:
    from vitune.tuned import Tuned

# Behind the blocks; all else outside of them and the head lies in front.
_AFTER = {"norm", "fc_norm", "pool", "head"}
# Mean of rate * |change of D| from which budgets follow batch noise more than anything else, and over how many steps.
_LARGE_MOVE, _MOVES_SEEN = 0.1, 10


class ALaSTPolicy(Policy):
    """Draws, freezes and moves.

    Args:
        tuned: The model.
        steering: What its blocks share.
    """

    def __init__(self, tuned: Tuned, steering: Steering) -> None:
        self.steering = steering
        self._run: Run | None = None
        self._selected: tuple[int, ...] = tuple(range(steering.blocks))
        self._share, self._move_sum, self._steps_seen = 0.0, 0.0, 0
        trained = tuned.trainable()
        blocks = {f"{block.path}.": block.index for block in tuned.anatomy.blocks}
        self._of_block: list[list[torch.nn.Parameter]] = [[] for _ in range(steering.blocks)]
        for name, parameter in trained.items():
            index = next((i for start, i in blocks.items() if name.startswith(start)), None)
            if index is not None:
                self._of_block[index].append(parameter)
            elif not steering.settings.train_embeddings and _in_front(tuned.anatomy.role_of(name)):
                parameter.requires_grad_(False)

    @property
    def selected(self) -> tuple[int, ...]:
        """The blocks that train in this step, ascending."""
        return self._selected

    def begin(self, run: Run) -> None:
        """Take over seed, length and, where `budget_lr` is not set, the learning rate."""
        self._run = run
        if self.steering.settings.budget_lr is None:
            self.steering.rate = run.lr

    def before_step(self, step: int) -> None:
        """Draw the blocks from the budgets as they are, then set those that are known beforehand."""
        settings, steering = self.steering.settings, self.steering
        noise = gumbel_noise(0 if self._run is None else self._run.seed, step, steering.blocks)
        k = settings.trained_blocks(steering.blocks)
        self.train_blocks(select(steering.budgets, k, settings.selection, noise))
        self._share = min(1.0, step / self._run.steps) if self._run is not None else 0.0
        steering.moves = []
        steering.before_step(self._share)

    def train_blocks(self, selected: tuple[int, ...]) -> None:
        """Let these blocks train and no others, whose parameters have no gradient at all until they are drawn again.

        Args:
            selected: Block numbers.
        """
        self._selected = selected
        for block, parameters in enumerate(self._of_block):
            trains = block in selected
            for parameter in parameters:
                if parameter.requires_grad != trains:
                    parameter.requires_grad_(trains)
                if not trains:
                    parameter.grad = None

    def after_step(self) -> None:
        """Move the budgets where they wait for the end of a step; warn where they jump."""
        self.steering.after_step()
        moves = self.steering.moves
        if not moves:
            return
        self._move_sum += sum(moves) / len(moves)
        self._steps_seen += 1
        if self._steps_seen == _MOVES_SEEN and self._move_sum / _MOVES_SEEN > _LARGE_MOVE:
            warnings.warn(
                f"alast: budgets move by {self._move_sum / _MOVES_SEEN:.2g} a step, so that they follow the noise of "
                f"batches; choose a smaller budget_lr than {self.steering.rate:g}, or budget_rule=flat.",
                stacklevel=2,
            )

    def next_stage(self) -> bool:
        """No stage of its own; every block may train at the start of another's."""
        self.train_blocks(tuple(range(self.steering.blocks)))
        return False

    def log(self) -> dict[str, Any]:
        """Budgets behind the step, the blocks that trained, and the tokens that entered each block."""
        steering = self.steering
        found: dict[str, Any] = {
            "alast_budgets": [round(budget, 4) for budget in steering.budgets],
            "alast_trained": list(self._selected),
            "alast_tokens": steering.entered(),
        }
        if steering.moves:
            found["alast_largest_move"] = max(steering.moves)
        return found

    def state_dict(self) -> dict[str, Any]:
        """Budgets, last deltas and importances in float64, and what was counted."""
        steering = self.steering
        deltas = [float("nan") if delta is None else delta for delta in steering.deltas]
        return {
            "budgets": torch.tensor(steering.budgets, dtype=torch.float64),
            "deltas": torch.tensor(deltas, dtype=torch.float64),
            "importance": torch.tensor(steering.importance.weights, dtype=torch.float64),
            "importance_seen": steering.importance.seen,
            "move_sum": self._move_sum,
            "steps_seen": self._steps_seen,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        steering = self.steering
        steering.budgets = state["budgets"].tolist()
        steering.deltas = [None if delta != delta else delta for delta in state["deltas"].tolist()]
        steering.importance = Importance(tuple(state["importance"].tolist()), bool(state["importance_seen"]))
        self._move_sum, self._steps_seen = float(state["move_sum"]), int(state["steps_seen"])


def _in_front(role: str) -> bool:
    return role.split(".")[0] not in _AFTER
