"""AdaptFormer: a bottleneck beside the MLP of every block.

Chen et al., "AdaptFormer: Adapting Vision Transformers for Scalable Visual Recognition", NeurIPS 2022
(arXiv:2205.13535). Official code: ShoufaChen/AdaptFormer @ 6967d67.

`x1 = x0 + Attn(LN1 x0)`; `x2 = x1 + MLP(LN2 x1) + s * (Drop(ReLU(x1 Wd^T + bd)) Wu^T + bu)`.

Where we differ from the paper: its eq. 3 shows a LayerNorm before Wd; the released code has none and its author
confirms the code, so `layernorm="none"` is the default. `placement="sequential"` acts on the MLP's output before
drop path, where the released code acts after it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitune.anatomy import Anatomy
from vitune.methods._base import Method
from vitune.methods._registry import register
from vitune.ops.narrow import widen
from vitune.surgery import AttachAtPoint, Step

LAYERNORM_EPS = 1e-5  # nn.LayerNorm's default, not the backbone's 1e-6


@register
@dataclass(frozen=True, kw_only=True)
class AdaptFormer(Method):
    """Settings of AdaptFormer.

    Attributes:
        bottleneck: Width of the bottleneck.
        placement: `parallel` to the MLP, or `sequential` after it.
        scale: Factor s of the branch, a number, or `learnable` (one scalar per block that starts at 1).
        layernorm: A LayerNorm of its own: `none`, `in` front of Wd, or on the `out`put s * up.
        bias: Whether Wd and Wu have biases.
        dropout: Probability, after the ReLU.
    """

    name: ClassVar[str] = "adaptformer"
    title: ClassVar[str] = "AdaptFormer"
    paper: ClassVar[str] = "arXiv:2205.13535"
    default_lr: ClassVar[float] = 1e-3
    search_space: ClassVar = {"bottleneck": (8, 16, 32, 64)}
    merges: ClassVar[bool] = False

    bottleneck: int = 64
    placement: Literal["parallel", "sequential"] = "parallel"
    scale: float | Literal["learnable"] = 0.1
    layernorm: Literal["none", "in", "out"] = "none"
    bias: bool = True
    dropout: float = 0.1

    def __post_init__(self) -> None:
        self.require(self.bottleneck >= 1, "bottleneck", "at least 1")
        self.require(self.placement in ("parallel", "sequential"), "placement", "'parallel' or 'sequential'")
        fixed = isinstance(self.scale, (int, float)) and math.isfinite(self.scale)
        self.require(fixed or self.scale == "learnable", "scale", "a finite number or 'learnable'")
        self.require(self.layernorm in ("none", "in", "out"), "layernorm", "'none', 'in' or 'out'")
        self.require(0 <= self.dropout < 1, "dropout", "in [0, 1)")

    def edits(self, anatomy: Anatomy) -> list[Step]:
        """One branch per block."""
        point = "mlp.beside" if self.placement == "parallel" else "mlp.output"
        return [
            AttachAtPoint(
                f"blocks.{block.index}.{point}", block.path, point, self.name, _Make(block.width, self)
            )
            for block in anatomy.blocks
        ]


@dataclass(frozen=True)
class _Make:
    width: int
    config: AdaptFormer

    def __call__(self) -> Bottleneck:
        return Bottleneck(self.width, self.config)


class Bottleneck(nn.Module):
    """Down, ReLU, up."""

    def __init__(self, width: int, config: AdaptFormer) -> None:
        super().__init__()
        self.residual = config.placement == "sequential"
        self.dropout = config.dropout
        self.norm_in = nn.LayerNorm(width, eps=LAYERNORM_EPS) if config.layernorm == "in" else None
        self.norm_out = nn.LayerNorm(width, eps=LAYERNORM_EPS) if config.layernorm == "out" else None
        # nn.Linear's own weight init is the paper's: kaiming-uniform(a = sqrt 5). Biases and Wu start at 0.
        self.down = nn.Linear(width, config.bottleneck, bias=config.bias)
        self.up = nn.Linear(config.bottleneck, width, bias=config.bias)
        for zero in (self.up.weight, self.up.bias, self.down.bias):
            if zero is not None:
                nn.init.zeros_(zero)
        self.scale = nn.Parameter(torch.ones(1)) if config.scale == "learnable" else float(config.scale)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) to (B, N, D): the branch alone, or x plus the branch where it is sequential."""
        y = x if self.norm_in is None else self.norm_in(x)
        y = F.dropout(F.relu(self.down(y)), self.dropout, self.training)
        y = (
            widen(y, self.up.weight, self.up.bias) * self.scale
        )  # the factor multiplies the bias of Wu as well
        if self.norm_out is not None:
            y = self.norm_out(y)
        return x + y if self.residual else y
