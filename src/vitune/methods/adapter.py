"""Adapter: a bottleneck in sequence with the branches of every block.

Houlsby et al., "Parameter-Efficient Transfer Learning for NLP", ICML 2019 (arXiv:1902.00751): two per block, after
attention and after the MLP; Pfeiffer et al., "AdapterFusion", EACL 2021 (arXiv:2005.00247): one, after the MLP. In
vision transformers: KMnP/vpt @ 4410440, ZhangYuanhan-AI/NOAH @ e9c55f3,
synbol/Parameter-Efficient-Transfer-Learning-Benchmark @ c188fad (V-PETL).

`y = MLP(LN2 x1)`; `x2 = x1 + y + s * (act(y Wd^T + bd) Wu^T + bu)`, inside the residual branch; with Houlsby's
placement the same on the output of attention.

Where we differ: KMnP/vpt starts all four tensors at zero, from where only bu ever moves (`init="vpt"`); by default Wd
is random here. NOAH acts behind drop path; here every form lies in front of it and of LayerScale.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from vitune.anatomy import Anatomy
from vitune.methods._base import Method
from vitune.methods._registry import register
from vitune.ops.narrow import widen
from vitune.surgery import AttachAtPoint, Step

POINTS = {"pfeiffer": ("mlp.output",), "houlsby": ("attn.output", "mlp.output")}
ACTIVATIONS = ("gelu", "quick_gelu", "relu")
INITS = ("kaiming", "trunc_normal", "vpt", "vpetl", "noah")


@register
@dataclass(frozen=True, kw_only=True)
class Adapter(Method):
    """Settings of the adapter.

    Attributes:
        bottleneck: Width h of the bottleneck.
        placement: `pfeiffer`, after the MLP; `houlsby`, after attention too.
        activation: `gelu` (exact), `quick_gelu` (y sigmoid(1.702 y)) or `relu`.
        scale: Factor s of the bottleneck.
        dropout: Probability, after the activation.
        init: `kaiming`: Wd kaiming-uniform(a = sqrt 5), all else 0; `trunc_normal`: Wd N(0, 0.02), all else 0; those of
            published codes: `vpt` (all 0), `vpetl` (Wd and Wu N(0, 0.02), biases 0), `noah` (Wd and Wu xavier-uniform,
            biases N(0, 1e-6)).
    """

    name: ClassVar[str] = "adapter"
    title: ClassVar[str] = "Adapter"
    paper: ClassVar[str] = "arXiv:1902.00751"
    default_lr: ClassVar[float] = 1e-3
    search_space: ClassVar = {"bottleneck": (4, 8, 16, 32)}
    merges: ClassVar[bool] = False

    bottleneck: int = 8
    placement: Literal["pfeiffer", "houlsby"] = "pfeiffer"
    activation: Literal["gelu", "quick_gelu", "relu"] = "gelu"
    scale: float = 1.0
    dropout: float = 0.0
    init: Literal["kaiming", "trunc_normal", "vpt", "vpetl", "noah"] = "kaiming"

    def __post_init__(self) -> None:
        self.require(self.bottleneck >= 1, "bottleneck", "at least 1")
        self.require(self.placement in POINTS, "placement", "'pfeiffer' or 'houlsby'")
        self.require(self.activation in ACTIVATIONS, "activation", "'gelu', 'quick_gelu' or 'relu'")
        self.require(math.isfinite(self.scale), "scale", "a finite number")
        self.require(0 <= self.dropout < 1, "dropout", "in [0, 1)")
        self.require(self.init in INITS, "init", "'kaiming', 'trunc_normal', 'vpt', 'vpetl' or 'noah'")

    @property
    def starts_at_identity(self) -> bool:
        """Not with the starts that draw Wu at random."""
        return self.init not in ("vpetl", "noah")

    def edits(self, anatomy: Anatomy) -> list[Step]:
        """One or two bottlenecks per block."""
        return [
            AttachAtPoint(f"blocks.{b.index}.{point}", b.path, point, self.name, _Make(b.width, self))
            for b in anatomy.blocks
            for point in POINTS[self.placement]
        ]


@dataclass(frozen=True)
class _Make:
    width: int
    config: Adapter

    def __call__(self) -> SequentialBottleneck:
        return SequentialBottleneck(self.width, self.config)


class SequentialBottleneck(nn.Module):
    """`y + s up(act(down(y)))`."""

    def __init__(self, width: int, config: Adapter) -> None:
        super().__init__()
        self.scale, self.dropout, self.activation = config.scale, config.dropout, config.activation
        self.down = nn.Linear(width, config.bottleneck)  # kaiming-uniform(a = sqrt 5) is its own start
        self.up = nn.Linear(config.bottleneck, width)
        _start(self.down, self.up, config.init)

    def forward(self, y: Tensor) -> Tensor:
        """(B, N, D) to (B, N, D)."""
        hidden = F.dropout(self._activated(self.down(y)), self.dropout, self.training)
        change = widen(hidden, self.up.weight, self.up.bias)
        return y + (change if self.scale == 1.0 else change * self.scale)

    def _activated(self, hidden: Tensor) -> Tensor:
        if self.activation == "quick_gelu":
            return hidden * (1.702 * hidden).sigmoid()
        return F.gelu(hidden) if self.activation == "gelu" else F.relu(hidden)


def _start(down: nn.Linear, up: nn.Linear, init: str) -> None:
    for bias in (down.bias, up.bias):
        nn.init.normal_(bias, std=1e-6) if init == "noah" else nn.init.zeros_(bias)
    if init == "noah":
        nn.init.xavier_uniform_(down.weight)
        nn.init.xavier_uniform_(up.weight)
        return
    if init == "vpt":
        nn.init.zeros_(down.weight)
    elif init in ("trunc_normal", "vpetl"):
        nn.init.trunc_normal_(down.weight, std=0.02)
    nn.init.trunc_normal_(up.weight, std=0.02) if init == "vpetl" else nn.init.zeros_(up.weight)
