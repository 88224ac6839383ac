"""ALaST: per step only K blocks train, and every block passes on only a share of the patch tokens.

Devoto, Alvetreti, Pomponi, Di Lorenzo, Minervini, Scardapane, "Adaptive Layer Selection for Efficient Vision
Transformer Fine-Tuning" (arXiv:2408.08670; Neurocomputing 2025, doi 10.1016/j.neucom.2025.131216). Code of a co-author:
Federico-Alvetreti/Split-Learning_ADC @ 67cc414, `methods/alast.py`.

Block l changes the class token by D_l = sum (c'_l - c_l)^2; its budget is
b_l <- clip(b_l + alpha (D_l(i) - D_l(i - 1))).
K blocks are drawn from softmax(b) before a step; behind block l the class token and the floor(b_l n) patches that it
attends to most stay. Nothing of this acts outside training. ALaST trains nothing itself: it decides when the parameters
of the other methods train, block by block, and acts on full fine-tuning where it is alone.

Where we differ from that code: evaluation never moves a budget; a block's attention stays fused, one row of scores is
computed beside it; nothing is selected behind the last block; parameters that rest keep no zero gradients. Rules of our
own (`budget_rule`, `tokens`, `dropped`) are the controls that the published rule must be compared with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from torch import Tensor

from vitune.anatomy import Anatomy
from vitune.errors import UnsupportedBackboneError
from vitune.methods._base import Method, Policy
from vitune.methods._registry import register
from vitune.methods.alast.costs import ALaSTCosts, BlockShape, alast_costs
from vitune.methods.alast.edits import AttentionWatch, BlockShare, BlockShareEdit
from vitune.methods.alast.pictures import kept_by_blocks
from vitune.methods.alast.policy import ALaSTPolicy
from vitune.methods.alast.selection import COUNTS, SELECTIONS, Count, Selection, inclusion, probabilities
from vitune.methods.alast.steering import Steering
from vitune.surgery import Attach, AttachAtPoint, Step, points_for

if TYPE_CHECKING:
    from vitune.tuned import Tuned

__all__ = ["ALaST", "ALaSTCosts", "BlockShape", "alast_costs", "inclusion", "probabilities"]

BudgetRule = Literal["published", "flat", "schedule", "target_flops"]
Tokens = Literal["attention", "random", "all"]

_FAMILIES = ("timm-vit", "timm-eva", "hf-vit", "hf-deit", "hf-dinov2")


@register
@dataclass(frozen=True, kw_only=True)
class ALaST(Method):
    """Settings of ALaST.

    Attributes:
        k: Blocks that train in a step; None: three quarters of them.
        budget_rule: `published`; `flat`: budgets stay at `initial_budget`; `schedule`: from `initial_budget` to
            `final_budget` in a line, then all tokens in the last `dense_share` of the run; `target_flops`: as many
            tokens as a share of the FLOPs of full fine-tuning allows, more where the class token changes more.
        budget_lr: alpha, how fast budgets follow; None: the run's peak learning rate.
        initial_budget: Budget of every block before the first step.
        budget_range: Smallest and largest budget.
        delta_reduction: Whether the change of the class token is a `sum` over the batch or a `mean`; alpha then counts
            per image.
        first_delta: What the first change is compared with: `zero`, or itself (`reference`), which moves nothing.
        budget_timing: Whether a block drops tokens with its `current` budget, moved in this forward, which makes a GPU
            wait once per block; or with that of the `previous` step, known beforehand.
        selection: How blocks are drawn: `softmax_sample`, `linear_sample` or `topk`, the largest budgets.
        token_count: floor(b n) patches of n tokens, the class token counted (`with_class`), or
            max(1, floor(b (n - 1))) (`patches`).
        token_step: Patches stay in multiples of it, rounded up. Ours: with 8, a CPU in half precision, which keeps a
            kernel for every number of tokens that it has met, holds a fraction of them.
        tokens: Which patches stay: those of most `attention`, `random` ones, or `all`.
        dropped: What a block does not see is `gone` for good, or `carried` around it and asked again by the next one.
        train_embeddings: Whether what lies in front of the blocks trains; if not, the backward stops at the lowest
            block that trains.
        final_budget: Of `schedule`.
        dense_share: Of `schedule`: part of the run, its end, with all tokens.
        target_flops: Of `target_flops`: share of the FLOPs of the blocks under full fine-tuning.
        smoothing: Of `target_flops`: share of the old importance.
    """

    name: ClassVar[str] = "alast"
    title: ClassVar[str] = "ALaST, adaptive layer and token selection"
    paper: ClassVar[str] = "arXiv:2408.08670"
    default_lr: ClassVar[float] = 1e-4
    merges: ClassVar[bool] = True
    acts_on_others: ClassVar[bool] = True
    conflicts: ClassVar[Mapping[str, str]] = {
        "linear": "a linear probe trains no block that could be selected",
        **dict.fromkeys(("vpt", "e2vpt"), "ALaST would drop prompts like patches"),
        "dyt": "both decide which tokens a block computes",
        "hst": "the side network reads all tokens of every block",
    }

    k: int | None = None
    budget_rule: BudgetRule = "published"
    budget_lr: float | None = None
    initial_budget: float = 0.9
    budget_range: tuple[float, ...] = (0.5, 1.0)
    delta_reduction: Literal["sum", "mean"] = "sum"
    first_delta: Literal["zero", "reference"] = "zero"
    budget_timing: Literal["current", "previous"] = "current"
    selection: Selection = "softmax_sample"
    token_count: Count = "with_class"
    token_step: int = 1
    tokens: Tokens = "attention"
    dropped: Literal["gone", "carried"] = "gone"
    train_embeddings: bool = True
    final_budget: float = 0.7
    dense_share: float = 0.0
    target_flops: float = 0.6
    smoothing: float = 0.9

    def __post_init__(self) -> None:
        self.require(self.k is None or self.k >= 1, "k", "at least 1")
        limits = self.budget_range
        ordered = len(limits) == 2 and 0 <= limits[0] <= limits[1] <= 1
        self.require(ordered, "budget_range", "two numbers in [0, 1], the smaller first")
        self.require(self.token_step >= 1, "token_step", "at least 1")
        self.require(0 < self.initial_budget <= 1, "initial_budget", "in (0, 1]")
        usable = self.budget_lr is None or (math.isfinite(self.budget_lr) and self.budget_lr >= 0)
        self.require(usable, "budget_lr", "0 or a positive number")
        for name, known in _CHOICES.items():
            self.require(getattr(self, name) in known, name, f"one of {', '.join(known)}")
        self.require(0 < self.final_budget <= 1, "final_budget", "in (0, 1]")
        self.require(0 <= self.dense_share < 1, "dense_share", "in [0, 1)")
        self.require(0 < self.target_flops <= 1, "target_flops", "in (0, 1]")
        self.require(0 <= self.smoothing < 1, "smoothing", "in [0, 1)")

    @property
    def limits(self) -> tuple[float, float]:
        """The smallest and the largest budget."""
        return self.budget_range[0], self.budget_range[1]

    def trained_blocks(self, blocks: int) -> int:
        """K, for a backbone of so many blocks."""
        return max(1, round(0.75 * blocks)) if self.k is None else self.k

    def edits(self, anatomy: Anatomy) -> list[Step]:
        """None of its own: see `further`."""
        return []

    def further(self, anatomy: Anatomy, steps: Sequence[Step]) -> list[Step]:
        """One edit around each block, outside of all others', and one in its attention where that decides about tokens.

        Raises:
            UnsupportedBackboneError: If the backbone has no class token that attends to all patches, or fewer than K
                blocks.
        """
        _require_class_token(anatomy)
        if self.tokens == "attention":
            _require_watch(anatomy)
        blocks = len(anatomy.blocks)
        if self.trained_blocks(blocks) > blocks:
            raise UnsupportedBackboneError(f"alast: k is {self.k}, and the backbone has {blocks} blocks.")
        patches = anatomy.grid[0] * anatomy.grid[1]
        steering = Steering(self, blocks, anatomy.width, anatomy.num_prefix_tokens, patches)
        found: list[Step] = []
        for block in anatomy.blocks:
            role, make = f"blocks.{block.index}", _Make(steering, block.index)
            if steering.needs_scores(block.index):
                point = "attn.watch"
                found.append(
                    AttachAtPoint(
                        f"{role}.{point}", block.attention, point, self.name, make.watch, inert=True
                    )
                )
            found.append(Attach(f"{role}.around", block.path, BlockShareEdit, make))
        return found

    def policy(self, tuned: Tuned) -> Policy:
        """Draws blocks and moves budgets."""
        first = tuned.model.get_submodule(f"{tuned.anatomy.blocks[0].path}.vitune.{self.name}")
        assert isinstance(first, BlockShare)
        return ALaSTPolicy(tuned, first.steering)

    def pictures(self, tuned: Tuned, images: Tensor) -> dict[str, Any]:
        """Which patches enter every block in training, under the budgets at the end."""
        return {} if self.tokens == "all" else {"kept_patches": kept_by_blocks(tuned, images)}


_CHOICES: dict[str, tuple[str, ...]] = {
    "budget_rule": get_args(BudgetRule),
    "delta_reduction": ("sum", "mean"),
    "first_delta": ("zero", "reference"),
    "budget_timing": ("current", "previous"),
    "selection": SELECTIONS,
    "token_count": COUNTS,
    "tokens": get_args(Tokens),
    "dropped": ("gone", "carried"),
}


def _require_class_token(anatomy: Anatomy) -> None:
    if anatomy.family not in _FAMILIES:
        raise UnsupportedBackboneError(
            f"alast: {anatomy.family} backbones are not supported; it needs a class token that attends to all patches, "
            f"as in {', '.join(_FAMILIES)}."
        )
    if "token" not in anatomy.pooling.split("+") or anatomy.num_prefix_tokens < 1:
        raise UnsupportedBackboneError(
            f"alast: the model classifies by '{anatomy.pooling}' pooling of {anatomy.num_prefix_tokens} prefix tokens; "
            f"budgets follow the class token, so that a model which reads it is needed."
        )


def _require_watch(anatomy: Anatomy) -> None:
    for block in anatomy.blocks:
        attention = anatomy.model.get_submodule(block.attention)
        try:
            points = points_for(attention).points
        except UnsupportedBackboneError:
            points = ()
        if "attn.watch" not in points:
            raise UnsupportedBackboneError(
                f"alast: queries and keys of {type(attention).__name__} cannot be seen, so that attention cannot "
                f"choose tokens; use tokens=random or tokens=all."
            )


@dataclass(frozen=True)
class _Make:
    steering: Steering
    block: int

    def __call__(self) -> BlockShare:
        return BlockShare(self.steering, self.block)

    def watch(self) -> AttentionWatch:
        """The layer at the attention's point."""
        return AttentionWatch(self.steering, self.block)
