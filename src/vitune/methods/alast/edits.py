"""The edits of ALaST: around a block, and at the place in its attention where queries and keys can be seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vitune.methods._recomputation import recomputing
from vitune.methods.alast.steering import Forward, Steering
from vitune.methods.alast.tokens import put_back, take
from vitune.surgery import Edit


class _Steered(nn.Module):
    """What both places have: no parameter, the steering and the number of the block."""

    decides = True  # which tokens stay; a forward in parts or without gradients would decide otherwise

    def __init__(self, steering: Steering, block: int) -> None:
        super().__init__()
        self.steering, self.block = steering, block

    @property
    def acts(self) -> bool:
        """Whether a forward now is one of training; anywhere else all tokens stay and no budget moves."""
        return self.training and torch.is_grad_enabled()


class AttentionWatch(_Steered):
    """Keeps views of the class token's query and of the keys until the block ends."""

    def forward(self, q: Tensor, k: Tensor, scale: float) -> None:
        """q and k (B, H, N, d)."""
        if self.acts and not recomputing():
            self.steering.forward.watched = (q[:, :, 0].detach(), k.detach(), scale)


class BlockShare(_Steered):
    """Runs a block on its share of the tokens."""

    def forward(self, x: Tensor, block: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """Run the block.

        Args:
            x: The stream (B, N, D) that enters it.
            block: The block as a function of the stream.
            args: Further arguments of the block.
            kwargs: The same.

        Returns:
            (B, n, D) with the tokens that stay; (B, N, D) where tokens are carried around the block.
        """
        again = recomputing()
        if self.block == 0 and not again:
            self.steering.forward = Forward()
        if self.steering.settings.dropped == "carried":
            return self._carried(x, block, again, args, kwargs)
        return self._gone(x, block, again, args, kwargs)

    def _gone(self, x: Tensor, block: Callable[..., Tensor], again: bool, args: Any, kwargs: Any) -> Tensor:
        steering, state = self.steering, self.steering.forward
        places = state.places.get(self.block)
        y = block(x, *args, **self._placed(kwargs, places))
        if not again:
            self._note(x, y)
            last = self.block + 1 == steering.blocks
            with torch.no_grad():
                rows = None if last else self._choose(y.shape[1] - steering.prefix, y)
                state.watched = None
                state.rows[self.block] = rows
                state.places[self.block + 1] = _further(places, rows)
        rows = state.rows[self.block]
        return y if rows is None else take(y, rows, steering.prefix)

    def _choose(self, patches: int, like: Tensor) -> Tensor | None:
        return self.steering.choose(self.steering.budgets[self.block], patches, like)

    def _carried(
        self, x: Tensor, block: Callable[..., Tensor], again: bool, args: Any, kwargs: Any
    ) -> Tensor:
        steering, state = self.steering, self.steering.forward
        if not again:
            with torch.no_grad():  # the share that a block sees is what the block before it leaves
                first = self.block == 0
                budget = 1.0 if first else steering.budgets[self.block - 1]
                rows = None if first else steering.choose(budget, x.shape[1] - steering.prefix, x)
                state.rows[self.block] = rows
        rows = state.rows[self.block]
        inside = x if rows is None else take(x, rows, steering.prefix)
        y = block(inside, *args, **self._placed(kwargs, rows))
        if not again:
            self._note(inside, y)
            if steering.needs_scores(self.block):
                with torch.no_grad():
                    scores = steering.watched_scores()
                    state.scores = (
                        scores
                        if rows is None or state.scores is None
                        else state.scores.scatter(1, rows, scores)
                    )
            state.watched = None
        # The last block may give the tokens that the head reads alone.
        if rows is None or y.shape[1] < inside.shape[1]:
            return y
        return put_back(x, y, rows, steering.prefix)

    @torch.no_grad()
    def _note(self, x: Tensor, y: Tensor) -> None:
        self.steering.forward.tokens[self.block] = x.shape[1]
        self.steering.note(self.block, x[:, 0], y[:, 0])

    def _placed(self, kwargs: dict[str, Any], places: Tensor | None) -> dict[str, Any]:
        """Arguments of a block with its rotary table, (N, d) or by head (H, N, d), taken along: (B, 1 or H, n, d)."""
        rope = kwargs.get("rope")
        if rope is None or places is None:
            return kwargs
        taken = rope[..., places, :]
        return {**kwargs, "rope": taken[:, None] if rope.dim() == 2 else taken.transpose(0, 1)}


def _further(places: Tensor | None, rows: Tensor | None) -> Tensor | None:
    """Which patches are left of those at `places` (B, n), after `rows` (B, k) of them were taken."""
    if rows is None:
        return places
    return rows if places is None else places.gather(1, rows)


class BlockShareEdit(Edit):
    """On a block."""

    key = "alast"

    def forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(B, N, D) to (B, n, D)."""
        share: BlockShare = self.vitune.alast
        if not share.acts:
            return super().forward(x, *args, **kwargs)
        return share(x, super().forward, *args, **kwargs)

    @staticmethod
    def can_fold(module: nn.Module) -> bool:
        """Always: it acts in training alone."""
        return True

    @staticmethod
    def fold(module: Any, layer: nn.Module) -> None:
        """Nothing to write."""
