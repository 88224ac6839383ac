"""Bi-AdaptFormer: a bottleneck beside the MLP of every block, with weights of 1 bit (or 2, 4, 8).

Source: as `vitune.methods._low_bit`; the rounding is `vitune.ops.low_bit`.

`x1 = x0 + Attn(LN1 x0)`; `x2 = x1 + MLP(LN2 x1) + s * Drop(ReLU(x1 Wd^T)) Wu^T`: no biases, no norm, no drop path on
the branch. Wd (h, D) and Wu (D, h) are rounded with their own mean and standard deviation in every forward pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from vitune.anatomy import Anatomy
from vitune.methods._base import Method
from vitune.methods._low_bit import LowBit
from vitune.methods._registry import register
from vitune.ops.narrow import widen
from vitune.surgery import AttachAtPoint, Step


@register
@dataclass(frozen=True, kw_only=True)
class BiAdaptFormer(LowBit):
    """Settings of Bi-AdaptFormer.

    Attributes:
        bottleneck: Width of the bottleneck.
    """

    name: ClassVar[str] = "bi_adaptformer"
    title: ClassVar[str] = "Bi-AdaptFormer"
    merges: ClassVar[bool] = False
    search_space: ClassVar = {"bottleneck": (8, 16, 32, 64)}
    conflicts: ClassVar[dict[str, str]] = {
        **Method.conflicts,
        "adaptformer": "both put a bottleneck beside the MLP; the two would be one wider bottleneck",
    }

    bottleneck: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.bottleneck >= 1, "bottleneck", "at least 1")

    def edits(self, anatomy: Anatomy) -> list[Step]:
        """One branch per block, and the 1-bit head if asked for.

        Raises:
            UnsupportedBackboneError: If a 1-bit head is asked for and the model has no head.
        """
        branches: list[Step] = [
            AttachAtPoint(
                f"blocks.{block.index}.mlp.beside",
                block.path,
                "mlp.beside",
                self.name,
                _Make(block.width, self),
            )
            for block in anatomy.blocks
        ]
        return branches + self.head_steps(anatomy)


@dataclass(frozen=True)
class _Make:
    width: int
    config: BiAdaptFormer

    def __call__(self) -> LowBitBottleneck:
        return LowBitBottleneck(self.width, self.config)


class LowBitBottleneck(nn.Module):
    """Down, ReLU, up, with rounded weights."""

    def __init__(self, width: int, config: BiAdaptFormer) -> None:
        super().__init__()
        self.scale, self.dropout = config.scale, config.dropout
        self.down = config.matrix(config.bottleneck, width, down=True)
        self.up = config.matrix(width, config.bottleneck, down=False)

    def forward(self, x: Tensor) -> Tensor:
        """The branch alone: (..., D) to (..., D)."""
        inner = F.dropout(F.relu(F.linear(x, self.down())), self.dropout, self.training)
        if self.scale != 1.0:
            inner = inner * self.scale  # here it is narrow; there is no bias that would mind
        return widen(inner, self.up())
