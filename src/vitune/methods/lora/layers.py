"""The layers of LoRA on a linear layer, and the edit that adds them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitune.ops.low_rank import add_low_rank, worthwhile
from vitune.surgery import Edit

if TYPE_CHECKING:
    from vitune.methods.lora import LoRA


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
        return self.added(latent, y)

    def added(self, latent: Tensor, y: Tensor) -> Tensor:
        """y (..., D_out) and the product of the latent (..., R * roles) with all B."""
        if not worthwhile(y):
            return y + F.linear(latent, self.up())
        starts = [0 if rows is None else rows.start for rows in self.rows]
        columns = [0 if self.share_down else i * self.rank for i in range(len(starts))]
        return add_low_rank(y, latent, self.ups(), list(zip(starts, columns, strict=True)))

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
