"""Pairs that are computed again in the backward pass.

A pair keeps its input z for the gradient of s, and what follows keeps s z + t: the same values in another form. Behind
the first layer of an MLP and behind a fused qkv what follows is cheap to compute again, so only z is kept there.
A compiler decides for itself what to keep, so nothing of this acts in a compiled or exported model.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vitune.methods.ssf.pairs import ScaleShift, ScaleShiftEdit
from vitune.ops.scale_shift_gelu import scale_shift_gelu
from vitune.surgery import Edit, attended, projected


class Reader(nn.Module):
    """Reads the pair of another layer; no parameters of its own."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = (layer,)  # in a tuple: a child would be counted and saved twice


class LeftToReader(ScaleShiftEdit):
    """Leaves the pair of a layer to the activation behind it, unless a later edit acts on the layer's output too."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """As the layer below it, or scaled and shifted."""
        if _outermost(self) is LeftToReader:
            return super(ScaleShiftEdit, self).forward(x, *args, **kwargs)
        return super().forward(x, *args, **kwargs)


class ActivationEdit(Edit):
    """Applies the pair that the layer in front left to it."""

    key = "ssf"

    def forward(self, x: Tensor) -> Tensor:
        """(..., C), or (B, C, height, width)."""
        (layer,) = self.vitune.ssf.layer
        if _outermost(layer) is not LeftToReader:
            return super().forward(x)
        pair = layer.vitune.ssf
        if not _recomputes():
            return super().forward(pair(x))
        if _edits(self) == (ActivationEdit,) and isinstance(self, nn.GELU) and fuses(pair, x):
            return scale_shift_gelu(x, pair.scale, pair.shift, self.approximate)
        again = functools.partial(_activated, super().forward, pair)
        return checkpoint(again, x, use_reentrant=False, preserve_rng_state=False)  # type: ignore[return-value]

    @staticmethod
    def can_fold(module: nn.Module) -> bool:
        """It has nothing of its own to fold."""
        return True


class AttentionEdit(Edit):
    """Keeps the output of qkv alone: neither the scaled q, k and v nor what the heads give."""

    key = "ssf"

    def forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(B, N, D) to (B, N, D); further arguments are those of timm."""
        (qkv,) = self.vitune.ssf.layer
        alone = (
            _edits(self) == (AttentionEdit,) and _outermost(qkv) is ScaleShiftEdit and not qkv._forward_hooks
        )
        masked = any(value is not None and value is not False for value in (*args, *kwargs.values()))
        if masked or not alone or not _recomputes():
            return super().forward(x, *args, **kwargs)
        below: Any = super(ScaleShiftEdit, qkv)
        rows = below.forward(x)
        drops = self.training and self.attn_drop.p > 0
        again = functools.partial(_attended, self, qkv.vitune.ssf)
        y: Any = checkpoint(again, rows, use_reentrant=False, preserve_rng_state=drops)
        return projected(self, y)

    @staticmethod
    def can_fold(module: nn.Module) -> bool:
        """It has nothing of its own to fold."""
        return True


def fuses(pair: nn.Module, x: Tensor) -> bool:
    """Whether a pair and the GELU behind it are one operation: on a CPU, where nothing else acts on the pair."""
    return type(pair) is ScaleShift and not pair.channels_first and x.device.type == "cpu"


def _activated(activation: Callable[[Tensor], Tensor], pair: ScaleShift, x: Tensor) -> Tensor:
    return activation(pair(x))


def _attended(attention: nn.Module, pair: ScaleShift, rows: Tensor) -> Tensor:
    return attended(attention, pair(rows))


def _recomputes() -> bool:
    return torch.is_grad_enabled() and not torch.compiler.is_compiling()


def _edits(module: Any) -> tuple[type[Edit], ...]:
    parts = getattr(type(module), "_vitune_parts", None)
    return () if parts is None else parts[1]


def _outermost(module: Any) -> type[Edit] | None:
    edits = _edits(module)
    return edits[0] if edits else None
