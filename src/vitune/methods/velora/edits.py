"""The edits that keep sub-token projections: of a linear layer, of LoRA's A, of a scale and shift."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vitune.methods.velora import compression
from vitune.methods.velora.direction import Direction
from vitune.surgery import Edit


class VeloraEdit(Edit):
    """Base; nothing is left of it in a merged model, since it changes gradients alone."""

    key = "velora"

    @staticmethod
    def can_fold(module: nn.Module) -> bool:
        """Always."""
        return True

    @staticmethod
    def fold(module: Any, layer: nn.Module) -> None:
        """Nothing to write."""


class VeloraLinearEdit(VeloraEdit):
    """Of an `nn.Linear`."""

    def forward(self: Any, x: Tensor) -> Tensor:
        """(..., D) to (..., O)."""
        direction: Direction = self.vitune.velora
        if not direction.acts or not self.weight.requires_grad:
            return super().forward(x)
        return _linear(direction, x, self.weight, self.bias)


class VeloraDownEdit(VeloraEdit):
    """Of A in a `LowRank`."""

    def project(self: Any, x: Tensor) -> Tensor:
        """(..., D) to (..., R)."""
        direction: Direction = self.vitune.velora
        down = self.down()
        if not direction.acts or not down.requires_grad:
            return super().project(x)  # pyright: ignore[reportAttributeAccessIssue]
        return _linear(direction, x, down, None)


class VeloraScaleShiftEdit(VeloraEdit):
    """Of a `ScaleShift` whose channels are last."""

    def forward(self: Any, x: Tensor) -> Tensor:
        """(..., D) to the same."""
        direction: Direction = self.vitune.velora
        if not direction.acts or not self.scale.requires_grad:
            return super().forward(x)
        how = direction.compression
        v = direction(x, x.dtype)
        return compression.scale_shift(x, self.scale, self.shift, v, how.groups, how.scale)


class VeloraOutputEdit(VeloraEdit):
    """Of a layer whose pair is compressed: changes nothing, but what reads the layer must take its output as it is and
    not compute the pair again from an input that it would have to keep."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """As the layer."""
        return super().forward(x, *args, **kwargs)


def _linear(direction: Direction, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    device = x.device.type
    kept = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    how = direction.compression
    v = direction(x, kept)
    return compression.linear(x, weight, bias, v, how.groups, how.scale, by_image=how.half)
