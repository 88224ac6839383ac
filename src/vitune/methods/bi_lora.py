"""Bi-LoRA: low-rank updates of linear layers with weights of 1 bit (or 2, 4, 8), merged away after training.

Source: as `vitune.methods._low_bit`; the rounding is `vitune.ops.low_bit`.

`q += s * Drop(z A_q^T) B_q^T` and `v` likewise, z = LN1 x: as LoRA, with A (R, D) and B (D, R) rounded in every forward
pass. B does not start at zero but near it, since a rounded matrix cannot be zero. Where we differ from the official
code: any roles of linear layers, not q and v alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from vitune.anatomy import Anatomy, Operator, Slot
from vitune.methods._base import Method
from vitune.methods._low_bit import LowBit
from vitune.methods._registry import register
from vitune.methods.lora import LoRA, LowRank, LowRankEdit, child_name, slots_by_operator
from vitune.surgery import Attach, Step


@register
@dataclass(frozen=True, kw_only=True)
class BiLoRA(LowBit):
    """Settings of Bi-LoRA.

    Attributes:
        rank: Rank of each update.
        roles: Which layers or rows of fused layers, as `vitune show --model NAME` names them, or `all-linear`.
    """

    name: ClassVar[str] = "bi_lora"
    title: ClassVar[str] = "Bi-LoRA"
    merges: ClassVar[bool] = True
    reads_text: ClassVar[bool] = True
    search_space: ClassVar = {"rank": (8, 16, 32, 64)}
    conflicts: ClassVar[dict[str, str]] = {
        **Method.conflicts,
        "lora": "both are low-rank updates of the same layers; the two would be one of higher rank",
    }

    rank: int = 32
    roles: tuple[str, ...] = ("attn.q", "attn.v")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.rank >= 1, "rank", "at least 1")
        self.require(len(self.roles) > 0, "roles", "at least one role")

    def edits(self, anatomy: Anatomy) -> list[Step]:
        """One edit per layer, with one update per role on it, and the 1-bit head if asked for.

        Raises:
            UnsupportedBackboneError: If a role is no linear layer, or a 1-bit head is asked for and there is no head.
        """
        steps: list[Step] = []
        for path, slots in slots_by_operator(self, anatomy, self.roles).items():
            operator = slots[0].operator
            parts = tuple((slot.role, child_name(slot.role)) for slot in slots)
            steps.append(
                Attach(operator.role, path, LowBitRankEdit, _Make(operator, tuple(slots), self), parts)
            )
        return steps + self.head_steps(anatomy)


@dataclass(frozen=True)
class _Make:
    operator: Operator
    slots: tuple[Slot, ...]
    config: BiLoRA

    def __call__(self) -> LowBitRank:
        names = [child_name(slot.role) for slot in self.slots]
        rows = [slot.rows for slot in self.slots]
        return LowBitRank(self.operator.in_features, self.operator.out_features, names, rows, self.config)


class Pair(nn.Module):
    """A (R, D_in) and B (D_out, R) of one update, called without arguments for the weights to compute with."""

    def __init__(self, in_features: int, out_features: int, config: BiLoRA) -> None:
        super().__init__()
        self.down = config.matrix(config.rank, in_features, down=True)
        self.up = config.matrix(out_features, config.rank, down=False)


class LowBitRank(LowRank):
    """The updates of one linear layer, with rounded weights."""

    def __init__(
        self, in_features: int, out_features: int, names: list[str], rows: list[slice | None], config: BiLoRA
    ) -> None:
        self._config = config
        plain = LoRA(rank=config.rank, scale=config.scale, dropout=config.dropout)
        super().__init__(in_features, out_features, names, rows, plain)

    def pair(self, in_features: int, height: int, with_down: bool) -> nn.Module:
        """The rounded A and B of one role."""
        return Pair(in_features, height, self._config)

    def downs(self) -> list[Tensor]:
        """The rounded A of each role."""
        return [pair.down() for pair in self._factors()]

    def ups(self) -> list[Tensor]:
        """The rounded B of each role."""
        return [pair.up() for pair in self._factors()]


class LowBitRankEdit(LowRankEdit):
    """Adds the updates to the output of a linear layer; folds as LoRA's do, with the rounded weights."""

    key = "bi_lora"

    def forward(self, x: Tensor) -> Tensor:
        """(..., D_in) to (..., D_out)."""
        return self.vitune.bi_lora(x, super(LowRankEdit, self).forward(x))  # LoRA's own layer is not there
