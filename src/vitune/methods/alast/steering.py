"""What steers the blocks of one model: their budgets, and the tokens of the forward that runs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from vitune.methods.alast.rules import Importance, scheduled, target_budgets
from vitune.methods.alast.selection import kept_patches, next_budget
from vitune.methods.alast.tokens import class_token_change, class_token_scores

if TYPE_CHECKING:
    from vitune.methods.alast import ALaST


@dataclass
class Forward:
    """What lives from a forward to its backward.

    Attributes:
        rows: By block, the patch tokens (B, k) taken in front of it (carried) or behind it (gone); None: all. A
            repeated forward takes the same.
        places: By block, which patches its tokens are, (B, n); None: all in order.
        tokens: Tokens that entered each block.
        watched: Query of the class token (B, H, d), keys (B, H, N, d) and scale of the block that runs.
        scores: The last score of every patch (B, N), where tokens are carried.
    """

    rows: dict[int, Tensor | None] = field(default_factory=dict)
    places: dict[int, Tensor | None] = field(default_factory=dict)
    tokens: dict[int, int] = field(default_factory=dict)
    watched: tuple[Tensor, Tensor, float] | None = None
    scores: Tensor | None = None


class Steering:
    """Shared by the blocks of a model and their policy; copied with the model, and without parameters.

    Args:
        settings: The method's settings.
        blocks: Number of blocks, L.
        width: Channels of the stream.
        prefix: Tokens in front of the patches, all of which stay; the first is the class token.
        patches: Patch tokens of an image.
    """

    def __init__(self, settings: ALaST, blocks: int, width: int, prefix: int, patches: int) -> None:
        self.settings, self.blocks, self.width = settings, blocks, width
        self.prefix, self.patches = prefix, patches
        self.rate = settings.default_lr if settings.budget_lr is None else settings.budget_lr
        self.budgets = [settings.initial_budget] * blocks
        self.deltas: list[float | None] = [None] * blocks
        self.importance = Importance.start(blocks)
        self.forward = Forward()
        self.unsettled: list[list[Tensor]] = []  # deltas by micro-batch, still on the device
        self.moves: list[float] = []  # rate * |change of D|, before clipping, of this step

    def __getstate__(self) -> dict[str, Any]:
        """Without the tensors of the last forward."""
        return {**self.__dict__, "forward": Forward(), "unsettled": []}

    @property
    def _watches_deltas(self) -> bool:
        return self.settings.budget_rule in ("published", "target_flops")

    @property
    def _moves_at_once(self) -> bool:
        return self.settings.budget_rule == "published" and self.settings.budget_timing == "current"

    def before_step(self, share: float) -> None:
        """Set the budgets that are known beforehand.

        Args:
            share: Part of the run that is done.
        """
        settings = self.settings
        if settings.budget_rule == "schedule":
            budget = scheduled(settings.initial_budget, settings.final_budget, settings.dense_share, share)
            self.budgets = [budget] * self.blocks
        elif settings.budget_rule == "target_flops":
            self.budgets = target_budgets(
                self.importance.weights,
                settings.target_flops,
                patches=self.patches,
                width=self.width,
                trained=settings.trained_blocks(self.blocks),
                limits=settings.limits,
                count=settings.token_count,
                step=settings.token_step,
            )

    def note(self, block: int, before: Tensor, after: Tensor) -> None:
        """See what a block did to the class token, (B, D) before and after; moves its budget where that is due."""
        if not self._watches_deltas:
            return
        delta = class_token_change(before, after, mean=self.settings.delta_reduction == "mean")
        if isinstance(delta, FakeTensor):  # costs are being counted; there are no numbers
            return
        if self._moves_at_once:
            self._move(block, delta.item())
            return
        if block == 0:
            self.unsettled.append([])
        self.unsettled[-1].append(delta)

    def after_step(self) -> None:
        """Take in what was seen in the step, micro-batch by micro-batch, with one copy to the host."""
        unsettled, self.unsettled = self.unsettled, []
        if not unsettled:
            return
        for deltas in torch.stack([torch.stack(seen) for seen in unsettled]).tolist():
            if self.settings.budget_rule == "target_flops":
                self.importance = self.importance.with_deltas(deltas, self.settings.smoothing)
                continue
            for block, delta in enumerate(deltas):
                self._move(block, delta)

    def _move(self, block: int, delta: float) -> None:
        previous = self.deltas[block]
        if previous is None:
            previous = delta if self.settings.first_delta == "reference" else 0.0
        elif math.isfinite(delta):
            self.moves.append(abs(self.rate * (delta - previous)))
        self.budgets[block] = next_budget(
            self.budgets[block], delta, previous, self.rate, self.settings.limits
        )
        if math.isfinite(delta):
            self.deltas[block] = delta

    def needs_scores(self, block: int) -> bool:
        """Whether attention of the class token in a block decides about tokens; not of the last one, which only the
        class token leaves."""
        return self.settings.tokens == "attention" and block + 1 < self.blocks

    def choose(self, budget: float, patches: int, like: Tensor) -> Tensor | None:
        """Which patch tokens stay.

        Args:
            budget: Of the block that drops.
            patches: Patch tokens to choose among.
            like: A tensor of the batch.

        Returns:
            (B, k) places among them, or None for all.
        """
        k = kept_patches(budget, patches, self.settings.token_count, self.settings.token_step)
        if k >= patches or self.settings.tokens == "all":
            return None
        if self.settings.tokens == "random":
            scores = torch.rand(like.shape[0], patches, device=like.device)
        elif self.settings.dropped == "carried":
            assert self.forward.scores is not None
            scores = self.forward.scores
        else:
            scores = self.watched_scores()
        return scores.topk(k, dim=1, sorted=False).indices

    def watched_scores(self) -> Tensor:
        """Attention of the class token to the patches in the block that ran, (B, n)."""
        assert self.forward.watched is not None, "the block ran without its attention being watched"
        return class_token_scores(*self.forward.watched)[:, self.prefix :]

    def entered(self) -> list[int]:
        """Tokens that entered each block in the last forward."""
        return [self.forward.tokens[block] for block in sorted(self.forward.tokens)]
