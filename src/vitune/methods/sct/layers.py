"""The map on the salient channels (SCTM), and the edit that puts it on a linear layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitune.surgery import Edit


class SalientLinear(nn.Module):
    """K channels changed by a K x K linear map of themselves; the others pass untouched.

    Attributes:
        index: Salient channels, ascending, (K,); the first K until they are chosen.
        weight: W (K, K); row and column j belong to channel `index[j]`.
        bias: b (K,).
    """

    index: Tensor

    def __init__(self, channels: int, scale: float, scale_on_input: bool) -> None:
        super().__init__()
        self.scale, self.scale_on_input = scale, scale_on_input
        self.weight = nn.Parameter(torch.empty(channels, channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        nn.init.trunc_normal_(self.weight, std=0.02)
        self.register_buffer("index", torch.arange(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) to (..., C)."""
        return _added(x, self.index, self.change(x.index_select(-1, self.index)))

    def change(self, u: Tensor) -> Tensor:
        """What is added to the salient channels u (..., K): `c v`, or `v + (c - 1) u` with the scale on the input."""
        v = F.linear(u, self.weight, self.bias)
        if self.scale == 1.0:
            return v
        return torch.add(v, u, alpha=self.scale - 1.0) if self.scale_on_input else v * self.scale

    def pieces(self) -> list[tuple[int, SalientLinear]]:
        """Itself, from row 0."""
        return [(0, self)]

    def affine(self) -> tuple[Tensor, Tensor]:
        """M (K, K) and d (K,) such that `change(u) = M u + d`, in float32."""
        weight, bias = self.weight.float(), self.bias.float()
        if self.scale_on_input:
            eye = torch.eye(len(weight), device=weight.device)
            return weight + (self.scale - 1.0) * eye, bias
        return self.scale * weight, self.scale * bias


class SalientRows(nn.Module):
    """Maps on row ranges of one layer's output, done with one gather and one scatter.

    Args:
        maps: Name to map.
        starts: First row of each map's range.
    """

    def __init__(self, maps: Mapping[str, SalientLinear], starts: Sequence[int]) -> None:
        super().__init__()
        self.names, self.starts = tuple(maps), tuple(starts)
        for name, layer in maps.items():
            self.add_module(name, layer)

    def forward(self, y: Tensor) -> Tensor:
        """(..., D_out) to (..., D_out)."""
        pieces = self.pieces()
        if len(pieces) == 1 and pieces[0][0] == 0:
            return pieces[0][1](y)
        index = torch.cat([layer.index + start for start, layer in pieces])
        salient = y.index_select(-1, index).split([len(layer.bias) for _, layer in pieces], -1)
        change = [layer.change(u) for (_, layer), u in zip(pieces, salient, strict=True)]
        return _added(y, index, torch.cat(change, -1))

    def pieces(self) -> list[tuple[int, SalientLinear]]:
        """(first row, map) of each."""
        return [(start, getattr(self, n)) for n, start in zip(self.names, self.starts, strict=True)]


def _added(x: Tensor, index: Tensor, change: Tensor) -> Tensor:
    """Add a change (..., K) to the channels `index` (K,) of x (..., C).

    Unlike `index_add`, `scatter_add` does not keep the change for the backward pass: only `u` stays there.
    """
    return x.scatter_add(-1, index.expand(change.shape), change.to(x.dtype))


class SalientEdit(Edit):
    """Changes the salient channels of a linear layer's output."""

    key = "sct"

    def forward(self, x: Tensor) -> Tensor:
        """(..., D_in) to (..., D_out)."""
        return self.vitune.sct(super().forward(x))

    @staticmethod
    def can_fold(module: nn.Module) -> bool:
        """Always: the layer is linear."""
        return True

    @staticmethod
    def fold(module: Any, layer: nn.Module) -> None:
        """`W[S] += M W[S]`, `b[S] += M b[S] + d` for every map."""
        assert isinstance(layer, (SalientLinear, SalientRows))
        if module.bias is None:
            new = torch.zeros_like(module.weight[:, 0])
            module.bias = nn.Parameter(new, requires_grad=False)
        for start, piece in layer.pieces():
            rows = piece.index + start
            matrix, shift = piece.affine()
            weight, bias = module.weight[rows].float(), module.bias[rows].float()
            module.weight[rows] = (weight + matrix @ weight).to(module.weight.dtype)
            module.bias[rows] = (bias + matrix @ bias + shift).to(module.bias.dtype)
