"""Points of blocks whose tensors have the channels first: layers see (B, height, width, D) all the same."""

from __future__ import annotations

from torch import Tensor, nn

from vitune.surgery.points._base import Points


def through(points: Points, layers: nn.ModuleDict, x: Tensor) -> Tensor:
    """Pass a map (B, D, height, width) through the layers of a point."""
    return _first(points.through(layers, _last(x))) if len(layers) else x


def added(points: Points, layers: nn.ModuleDict, stream: Tensor, total: Tensor) -> Tensor:
    """Add what the layers of a `beside` point make of the stream (B, D, height, width) to a sum of that shape."""
    return _first(points.added(layers, _last(stream), _last(total))) if len(layers) else total


def _last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1)


def _first(x: Tensor) -> Tensor:
    # In the memory layout that the plain block would hand on, so that the next layers compute the very same.
    return x.permute(0, 3, 1, 2).contiguous()
