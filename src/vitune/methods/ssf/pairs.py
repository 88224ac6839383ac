"""The pairs of SSF: the layer, and the edits that apply it to an operator, a norm, or what a norm takes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vitune.anatomy import Anatomy
from vitune.ops.scale_shift import scale_shift
from vitune.surgery import Edit, takes_shift


class ScaleShift(nn.Module):
    """One pair (s, t), both (C,)."""

    def __init__(self, channels: int, channels_first: bool, init_std: float) -> None:
        super().__init__()
        self.channels_first = channels_first
        self.scale = nn.Parameter(torch.empty(channels))
        self.shift = nn.Parameter(torch.empty(channels))
        nn.init.normal_(self.scale, 1.0, init_std)
        nn.init.normal_(self.shift, 0.0, init_std)

    def forward(self, x: Tensor) -> Tensor:
        """`s * x + t` over the channels of x: (..., C), or (B, C, height, width) where channels come first."""
        return scale_shift(x, self.scale, self.shift, channels_first=self.channels_first)


class ScaleShiftEdit(Edit):
    """Scales and shifts the output of an operator."""

    key = "ssf"

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """As the operator below it."""
        return self.vitune.ssf(super().forward(x, *args, **kwargs))

    @staticmethod
    def can_fold(module: nn.Module) -> bool:
        """Not into an identity or an RMS norm, which have no place for the shift."""
        return takes_shift(module)

    @staticmethod
    def destination(anatomy: Anatomy, role: str) -> tuple[str, type[Edit]] | None:
        """An average pooling commutes with the pair: behind it, one vector per image is scaled, not every position."""
        behind = [o.path for o in anatomy.operators if o.role in ("fc_norm", "head.norm")]
        return (
            (behind[0], ScaleShiftInputEdit)
            if role == "norm" and anatomy.pooling == "avg" and behind
            else None
        )

    @staticmethod
    def fold(module: Any, layer: nn.Module) -> None:
        """W' = s W over output rows, b' = s b + t (eq. 5); the same for the affine of a norm."""
        assert isinstance(layer, ScaleShift)
        weight, bias = module._parameters["weight"], module._parameters["bias"]
        scale, shift = layer.scale.float(), layer.shift.float()
        weight.copy_(weight.float() * scale.view(-1, *[1] * (weight.dim() - 1)))
        if bias is None:
            module.bias = nn.Parameter(shift.to(weight.dtype), requires_grad=False)
        else:
            bias.copy_(bias.float() * scale + shift)


class ScaleShiftNormEdit(ScaleShiftEdit):
    """Scales and shifts a norm by its own affine: s (g n + b) + t = (s g) n + (s b + t).

    Nothing is kept for the backward pass but what the norm keeps, and in a layer that norms and activates the pair lies
    in front of the activation, where it can be folded.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """As the norm, which reads `weight` and `bias` below."""
        return super(ScaleShiftEdit, self).forward(x, *args, **kwargs)

    @property
    def weight(self: Any) -> Tensor:
        """s g, (C,)."""
        return self._parameters["weight"] * self.vitune.ssf.scale

    @property
    def bias(self: Any) -> Tensor:
        """s b + t, (C,)."""
        return torch.addcmul(self.vitune.ssf.shift, self._parameters["bias"], self.vitune.ssf.scale)


class ScaleShiftInputEdit(Edit):
    """Scales and shifts what a norm takes: the pair that lay in front of the pooling, behind it."""

    key = "ssf"

    def forward(self, x: Tensor) -> Tensor:
        """Pooled features, (B, D) or (B, D, 1, 1)."""
        return super().forward(self.vitune.ssf(x))
