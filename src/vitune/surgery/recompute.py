"""Where a cheap part of the forward pass can be computed again in the backward pass, so that its result is not kept.

Tells methods where such parts are; what a method computes again is its own affair.
"""

from __future__ import annotations

from typing import Any

from timm.layers.attention import Attention
from timm.layers.mlp import Mlp
from torch import Tensor, nn

from vitune.surgery.edits import parts_of
from vitune.surgery.points.attention import attend


def activation_behind(model: nn.Module, path: str) -> str | None:
    """The path of the GELU that takes the output of a layer, where nothing lies between; None elsewhere.

    Args:
        model: The model.
        path: The layer.
    """
    parent, _, name = path.rpartition(".")
    if not parent or name != "fc1":
        return None
    mlp = model.get_submodule(parent)
    plain = parts_of(mlp)[0].forward is Mlp.forward and type(getattr(mlp, "act", None)) is nn.GELU
    return f"{parent}.act" if plain else None


def attention_around(model: nn.Module, path: str) -> str | None:
    """The path of the attention that a fused qkv layer belongs to, where it is timm's plain one; None elsewhere.

    Args:
        model: The model.
        path: The layer.
    """
    parent, _, name = path.rpartition(".")
    if not parent or name != "qkv":
        return None
    attention = model.get_submodule(parent)
    plain = parts_of(attention)[0].forward is Attention.forward and getattr(attention, "gate", None) is None
    return parent if plain else None


def attended(attention: Any, rows: Tensor) -> Tensor:
    """From the output of qkv (B, N, 3 D) to what the heads give (B, N, D), in a module `attention_around` found."""
    batch, tokens, _ = rows.shape
    heads = rows.reshape(batch, tokens, 3, attention.num_heads, attention.head_dim).permute(2, 0, 3, 1, 4)
    q, k, v = heads.unbind(0)
    y = attend(attention, attention.q_norm(q), attention.k_norm(k), v, None, False)
    return y.transpose(1, 2).reshape(batch, tokens, -1)


def projected(attention: Any, y: Tensor) -> Tensor:
    """From what the heads give (B, N, D) to the output of the attention (B, N, D)."""
    norm = getattr(attention, "norm", None)  # not in every release of timm
    return attention.proj_drop(attention.proj(y if norm is None else norm(y)))
