"""Fused qkv layers whose bias is kept apart: timm's BEiT, EVA and Swin v2.

Their attention computes `F.linear(x, self.qkv.weight, cat(q_bias, k_bias, v_bias))` with a k_bias that is zero and no
parameter, so `qkv.forward` never runs and an edit of qkv would do nothing. Two edits without parameters make the layer
run and hand it its bias. They come with the first edit of such a layer, below it, and leave with the last.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.models.beit import Attention as BeitAttention
from timm.models.eva import Eva, EvaAttention
from timm.models.swin_transformer_v2 import WindowAttention as SwinV2Attention
from torch import Tensor, nn
from torch.nn import functional as F

from vitune.surgery.edits import Edit, attach, detach, layer_of, parts_of

_CLASSES = (BeitAttention, EvaAttention, SwinV2Attention)


class CallsQkv(Edit):
    """Makes an attention module call its qkv layer."""

    key = "calls_qkv"
    # All three classes call `self.qkv(x)` where they see no bias. The parameter itself stays where it is.
    q_bias = None


class SplitBias(nn.Module):
    """The bias of a qkv layer, read from the attention module that keeps it."""

    def __init__(self, attention: nn.Module, keys_move_freely: bool) -> None:
        super().__init__()
        self.attention = (attention,)  # in a tuple: a child would be counted and saved twice
        self.keys_move_freely = keys_move_freely

    def forward(self) -> Tensor:
        """(3 D,): that of q, zeros for k, that of v."""
        return _whole(*self.attention)


class WithSplitBias(Edit):
    """A qkv layer with the bias that its attention module keeps."""

    key = "split_bias"

    def forward(self: Any, x: Tensor) -> Tensor:
        """(..., D) to (..., 3 D)."""
        bias = self.vitune.split_bias() if self.bias is None else self.bias
        return F.linear(x, self.weight, bias)

    @staticmethod
    def can_fold(module: nn.Module) -> bool:
        """It folds nothing itself and is in nobody's way."""
        return True


def bring(model: nn.Module, path: str) -> None:
    """Make the layer at a path run, if it is such a qkv layer and nothing has yet.

    Args:
        model: The model.
        path: A layer about to be edited.
    """
    layer, attention = _pair(model, path)
    if attention is None or WithSplitBias in parts_of(layer)[1]:
        return
    attach(attention, CallsQkv, nn.Module())
    attach(layer, WithSplitBias, SplitBias(attention, _keys_move_freely(model, attention)))


def leave(model: nn.Module, path: str) -> None:
    """Undo `bring` when the last edit above it is gone."""
    layer, attention = _pair(model, path)
    if attention is None or parts_of(layer)[1] != (WithSplitBias,):
        return
    put_back(model, path)
    detach(layer, WithSplitBias)
    detach(attention, CallsQkv)


def gather(model: nn.Module, path: str) -> None:
    """Give the layer at a path its bias for the time of a merge, so that folding is the same for all layers."""
    layer, attention = _pair(model, path)
    if attention is not None and WithSplitBias in parts_of(layer)[1] and layer.bias is None:
        bias = layer_of(layer, WithSplitBias)()
        layer.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)


def put_back(model: nn.Module, path: str) -> None:
    """The inverse of `gather`; a shift of the keys is dropped, since `takes_shift` let in only what changes nothing."""
    layer, attention = _pair(model, path)
    if attention is None or layer.bias is None:
        return
    q, _, v = layer.bias.detach().chunk(3)
    with torch.no_grad():
        attention._parameters["q_bias"].copy_(q)  # type: ignore[union-attr]
        attention._parameters["v_bias"].copy_(v)  # type: ignore[union-attr]
    layer.register_parameter("bias", None)


def takes_shift(module: nn.Module) -> bool:
    """Whether a shift of all outputs can be folded into a module.

    A norm or an identity without bias cannot take it. In a qkv layer with a bias kept apart the keys have none: a shift
    of all keys adds the same to every score of a query and softmax ignores it, unless keys are rotated or normalised.
    """
    if WithSplitBias in parts_of(module)[1]:
        return layer_of(module, WithSplitBias).keys_move_freely  # type: ignore[return-value]
    return "bias" in module._parameters


def bias_of(layer: nn.Module) -> Tensor | None:
    """The bias of a layer, kept apart or not; None where it has none."""
    own = layer._parameters.get("bias")
    apart = own is None and WithSplitBias in parts_of(layer)[1]
    return layer_of(layer, WithSplitBias)() if apart else own


def kept_apart(model: nn.Module, path: str) -> Tensor | None:
    """The bias of the layer at a path, (3 D,), where its attention keeps it; None where it is the layer's own.

    Args:
        model: The model.
        path: Of the layer, edited or not.
    """
    _, attention = _pair(model, path)
    return None if attention is None else _whole(attention)


def called_only_when_edited(model: nn.Module, path: str) -> bool:
    """Whether the plain model reads the weight of the layer at a path without ever calling the layer."""
    return _pair(model, path)[1] is not None


def _pair(model: nn.Module, path: str) -> tuple[Any, nn.Module | None]:
    """The layer at a path, and the attention module that keeps its bias apart, if one does."""
    parent, _, name = path.rpartition(".")
    attention = model.get_submodule(parent)
    apart = isinstance(attention, _CLASSES) and attention._parameters.get("q_bias") is not None
    return model.get_submodule(path), attention if apart and name == "qkv" else None


def _whole(attention: nn.Module) -> Tensor:
    apart = attention._parameters
    return torch.cat((apart["q_bias"], attention.k_bias, apart["v_bias"]))  # type: ignore[arg-type]


def _keys_move_freely(model: nn.Module, attention: nn.Module) -> bool:
    if isinstance(attention, SwinV2Attention):
        return False  # scores are cosines
    rotated = any(isinstance(module, Eva) and module.rope is not None for module in model.modules())
    return not rotated and isinstance(getattr(attention, "k_norm", nn.Identity()), nn.Identity)
