"""What the low-bit methods have in common: their settings, their matrices, the 1-bit head.

Jie, Wang, Deng, "Revisiting the Parameter Efficiency of Adapters from the Perspective of Precision Redundancy", ICCV
2023 (arXiv:2307.16867). Official code: JieShibo/PETL-ViT @ 026e4f1, folder `binary_adapter`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitune.anatomy import Anatomy
from vitune.errors import UnsupportedBackboneError
from vitune.methods._base import Method
from vitune.ops.codebook import BITS, BookName
from vitune.ops.quantiser import LowBitMatrix, Quantiser
from vitune.surgery import Attach, Edit, LeaveOut, Step

FULL_PRECISION = 32
UP_STD = 0.001  # a rounded matrix cannot be zero, so Wu starts small instead, cut at two standard deviations


@dataclass(frozen=True, kw_only=True)
class LowBit(Method):
    """Settings that the low-bit methods share.

    Attributes:
        bits: Bits of each weight: 1, 2, 4 or 8; 32 leaves the weights as they are (the reference's baseline).
        scale: Factor s of the branch.
        dropout: Probability, between the two projections.
        binary_head: Whether the head is a 1-bit matrix without bias, instead of a layer in full precision.
        codebook: `reference`, or `converged`, which differs at 8 bits only (and is the better one there).
    """

    paper: ClassVar[str] = "arXiv:2307.16867"
    default_lr: ClassVar[float] = 1e-3

    bits: Literal[1, 2, 4, 8, 32] = 1
    scale: float = 1.0
    dropout: float = 0.1
    binary_head: bool = False
    codebook: BookName = "reference"

    def __post_init__(self) -> None:
        self.require(self.bits in (*BITS, FULL_PRECISION), "bits", "1, 2, 4, 8 or 32")
        self.require(math.isfinite(self.scale), "scale", "a finite number")
        self.require(0 <= self.dropout < 1, "dropout", "in [0, 1)")
        self.require(self.codebook in ("reference", "converged"), "codebook", "'reference' or 'converged'")

    @property
    def starts_at_identity(self) -> bool:
        """Only in full precision: a rounded matrix cannot be zero."""
        return self.bits == FULL_PRECISION and not self.binary_head

    def head_steps(self, anatomy: Anatomy) -> list[Step]:
        """The 1-bit head, where it is asked for.

        Raises:
            UnsupportedBackboneError: If the model has no head.
        """
        if not self.binary_head:
            return []
        if not anatomy.head:
            raise UnsupportedBackboneError(
                f"{self.name}: binary_head needs a head and the model has none; create it with num_classes above 0."
            )
        steps: list[Step] = []
        for i, path in enumerate(anatomy.head):
            role = f"head.{i}" if i else "head"
            steps.append(Attach(role, path, BinaryHeadEdit, _MakeHead(self.codebook)))
            if anatomy.model.get_submodule(path)._parameters.get("bias") is not None:
                steps.append(LeaveOut(f"{role}.bias", f"{path}.bias"))
        return steps

    def matrix(self, rows: int, columns: int, *, down: bool) -> nn.Module:
        """A new weight (rows, columns), called without arguments for the weights to compute with.

        Args:
            rows: Outputs.
            columns: Inputs.
            down: Whether it starts like a linear layer, rather than near zero.
        """
        made = (
            FloatMatrix(rows, columns)
            if self.bits == FULL_PRECISION
            else LowBitMatrix(rows, columns, self.bits, self.codebook)
        )
        if down:
            nn.init.kaiming_uniform_(made.weight, a=math.sqrt(5))  # U(-1/sqrt(C), 1/sqrt(C))
        elif self.bits == FULL_PRECISION:
            nn.init.zeros_(made.weight)
        else:
            nn.init.trunc_normal_(made.weight, std=UP_STD, a=-2 * UP_STD, b=2 * UP_STD)
        return made


class FloatMatrix(nn.Module):
    """A matrix in full precision, used as a `LowBitMatrix` is."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, columns))

    def forward(self) -> Tensor:
        """The weights, (rows, columns)."""
        return self.weight


class BinaryHeadEdit(Edit):
    """Classifies with the head's weight rounded to 1 bit, and without its bias."""

    key = "binary_head"

    def forward(self: Any, x: Tensor) -> Tensor:
        """(..., D) to (..., C)."""
        return F.linear(x, self.vitune.binary_head(self.weight))

    @staticmethod
    def can_fold(module: nn.Module) -> bool:
        """Always."""
        return True

    @staticmethod
    def fold(module: Any, layer: nn.Module) -> None:
        """The rounded weight, and a bias of 0."""
        module.weight.copy_(layer(module.weight))
        if module.bias is not None:
            module.bias.zero_()


@dataclass(frozen=True)
class _MakeHead:
    codebook: BookName

    def __call__(self) -> Quantiser:
        return Quantiser(1, self.codebook)  # 1 bit, however many the adapters have
