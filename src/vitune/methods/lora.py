"""LoRA: low-rank updates of linear layers, merged away after training.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022 (arXiv:2106.09685). For vision transformers
the default follows JieShibo/PETL-ViT @ 026e4f1: `q += s B_q A_q z`, `v += s B_v A_v z` on the rows of the fused qkv,
dropout between A and B, A kaiming-uniform(a = sqrt 5), B zero, no bias.

Variants: `dropout_at="input"` and `alpha` give the usual LoRA library's form (s = alpha / rank);
`share_down=True` with roles q, k, v gives NOAH's single A (ZhangYuanhan-AI/NOAH @ e9c55f3).
"""

from __future__ import annotations

import keyword
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitune.anatomy import Anatomy, Operator, Slot
from vitune.errors import UnsupportedBackboneError
from vitune.methods._base import Method
from vitune.methods._registry import register
from vitune.surgery import Attach, Edit, Step


@register
@dataclass(frozen=True, kw_only=True)
class LoRA(Method):
    """Settings of LoRA.

    Attributes:
        rank: Rank of each update.
        scale: Factor s of the update.
        alpha: If given, s = alpha / rank instead.
        roles: Which layers or rows of fused layers, as `vitune show --model NAME` names them, or `all-linear`.
        dropout: Probability.
        dropout_at: Where dropout acts: on the `latent` between A and B, or on the `input` of A.
        share_down: One A for all roles of a fused layer.
    """

    name: ClassVar[str] = "lora"
    title: ClassVar[str] = "LoRA"
    paper: ClassVar[str] = "arXiv:2106.09685"
    default_lr: ClassVar[float] = 1e-3
    merges: ClassVar[bool] = True

    rank: int = 8
    scale: float = 1.0
    alpha: float | None = None
    roles: tuple[str, ...] = ("attn.q", "attn.v")
    dropout: float = 0.0
    dropout_at: Literal["latent", "input"] = "latent"
    share_down: bool = False

    def __post_init__(self) -> None:
        self.require(self.rank >= 1, "rank", "at least 1")
        self.require(math.isfinite(self.scale), "scale", "a finite number")
        self.require(self.alpha is None or math.isfinite(self.alpha), "alpha", "a finite number")
        self.require(0 <= self.dropout < 1, "dropout", "in [0, 1)")
        self.require(self.dropout_at in ("latent", "input"), "dropout_at", "'latent' or 'input'")
        self.require(len(self.roles) > 0, "roles", "at least one role")

    @property
    def factor(self) -> float:
        """The factor s."""
        return self.scale if self.alpha is None else self.alpha / self.rank

    def edits(self, anatomy: Anatomy) -> list[Step]:
        """One edit per layer, with one update per role on it.

        Raises:
            UnsupportedBackboneError: If a role is no linear layer, or `share_down` meets a layer of one role.
        """
        by_operator = slots_by_operator(self, anatomy, self.roles)
        for slots in by_operator.values():
            if self.share_down and len(slots) == 1:
                raise UnsupportedBackboneError(
                    f"lora: share_down needs several roles on one fused layer, and '{slots[0].role}' is alone there."
                )
        return [_step(slots, self) for slots in by_operator.values()]


def slots_by_operator(method: Method, anatomy: Anatomy, roles: Sequence[str]) -> dict[str, list[Slot]]:
    """What roles mean for a low-rank method: by the path of each linear layer, the rows to update.

    Raises:
        UnsupportedBackboneError: If a role is no linear layer, or a layer is named whole and in part.
    """
    by_operator: dict[str, list[Slot]] = {}
    for slot in anatomy.find(roles):
        if slot.operator.kind != "linear":
            raise UnsupportedBackboneError(
                f"{method.name}: '{slot.role}' is a {slot.operator.kind}; {method.name} adapts linear layers only."
            )
        by_operator.setdefault(slot.operator.path, []).append(slot)
    for slots in by_operator.values():
        if len(slots) > 1 and any(slot.rows is None for slot in slots):
            raise UnsupportedBackboneError(
                f"{method.name}: the roles name '{slots[0].operator.role}' and rows of it at once; choose one."
            )
    return by_operator


def _step(slots: list[Slot], config: LoRA) -> Attach:
    operator = slots[0].operator
    parts = tuple((slot.role, child_name(slot.role)) for slot in slots)
    return Attach(operator.role, operator.path, LowRankEdit, _Make(operator, tuple(slots), config), parts)


@dataclass(frozen=True)
class _Make:
    operator: Operator
    slots: tuple[Slot, ...]
    config: LoRA

    def __call__(self) -> LowRank:
        names = [child_name(slot.role) for slot in self.slots]
        rows = [slot.rows for slot in self.slots]
        return LowRank(self.operator.in_features, self.operator.out_features, names, rows, self.config)


def child_name(role: str) -> str:
    """The last word of a role; torch.export writes children as attributes, where `in` would be Python's own."""
    name = role.rsplit(".", 1)[-1]
    return f"{name}_" if keyword.iskeyword(name) else name


class Factors(nn.Module):
    """A (R, D_in) and B (D_out, R) of one update; A is None where it is shared."""

    def __init__(self, in_features: int, out_features: int, rank: int, with_down: bool) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.empty(rank, in_features)) if with_down else None
        self.up = nn.Parameter(torch.zeros(out_features, rank))
        if self.down is not None:
            nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))


class LowRank(nn.Module):
    """The updates of one linear layer, computed with one product down and one up."""

    def __init__(
        self, in_features: int, out_features: int, names: list[str], rows: list[slice | None], config: LoRA
    ) -> None:
        super().__init__()
        self.names, self.rows = names, rows
        self.out_features, self.rank = out_features, config.rank
        self.factor, self.dropout, self.drop_input = (
            config.factor,
            config.dropout,
            config.dropout_at == "input",
        )
        self.share_down = config.share_down
        for i, (name, row) in enumerate(zip(names, rows, strict=True)):
            height = out_features if row is None else row.stop - row.start
            self.add_module(name, self.pair(in_features, height, i == 0 or not config.share_down))

    def pair(self, in_features: int, height: int, with_down: bool) -> nn.Module:
        """The A and B of one role; a variant of LoRA may keep them in another form."""
        return Factors(in_features, height, self.rank, with_down)

    def _factors(self) -> list[Any]:
        return [getattr(self, name) for name in self.names]

    def downs(self) -> list[Tensor]:
        """The A of each role; one alone where it is shared."""
        return [factors.down for factors in self._factors() if factors.down is not None]

    def ups(self) -> list[Tensor]:
        """The B of each role."""
        return [factors.up for factors in self._factors()]

    def down(self) -> Tensor:
        """All A, stacked: (R * roles, D_in); (R, D_in) where shared."""
        stacked = self.downs()
        return stacked[0] if len(stacked) == 1 else torch.cat(stacked)

    def up(self) -> Tensor:
        """All B, each in the rows and columns of its role: (D_out, R * roles); (D_out, R) where shared."""
        ups = self.ups()
        if len(ups) == 1 and self.rows[0] is None:
            return ups[0]
        columns, row = len(ups) * self.rank, 0
        pieces = []
        for i, (up, rows) in enumerate(zip(ups, self.rows, strict=True)):
            assert rows is not None
            if rows.start > row:
                pieces.append(up.new_zeros(rows.start - row, self.rank if self.share_down else columns))
            before, after = (0, 0) if self.share_down else (i * self.rank, columns - (i + 1) * self.rank)
            pieces.append(F.pad(up, (before, after)))
            row = rows.stop
        if row < self.out_features:
            pieces.append(pieces[0].new_zeros(self.out_features - row, pieces[0].shape[1]))
        return torch.cat(pieces)

    def project(self, x: Tensor) -> Tensor:
        """x (..., D_in) on all A: (..., R * roles)."""
        return F.linear(x, self.down())

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Update the layer's output y (..., D_out) from its input x (..., D_in)."""
        if self.drop_input:
            x = F.dropout(x, self.dropout, self.training)
        latent = self.project(x)
        if not self.drop_input:
            latent = F.dropout(latent, self.dropout, self.training)
        if self.factor != 1.0:
            latent = latent * self.factor
        return y + F.linear(latent, self.up())

    def delta(self) -> Tensor:
        """s B A, in the precision of the factors: (D_out, D_in)."""
        return self.factor * (self.up() @ self.down())


class LowRankEdit(Edit):
    """Adds the updates to the output of a linear layer."""

    key = "lora"

    def forward(self, x: Tensor) -> Tensor:
        """(..., D_in) to (..., D_out)."""
        return self.vitune.lora(x, super().forward(x))

    @staticmethod
    def can_fold(module: nn.Module) -> bool:
        """Always."""
        return True

    @staticmethod
    def fold(module: Any, layer: nn.Module) -> None:
        """W + s B A."""
        assert isinstance(layer, LowRank)
        weight = module.weight
        weight.copy_(weight.float() + layer.float().delta())
