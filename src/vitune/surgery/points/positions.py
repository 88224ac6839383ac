"""Attentions of timm that know where a token stands, with points: EVA, DINOv3, rope ViTs, BEiT.

What is further has no position: its keys are not rotated, as those of class tokens are not, and relative positions add
nothing to its scores.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.layers.attention import AttentionRope
from timm.layers.pos_embed_sincos import apply_rot_embed_cat
from timm.models.beit import Attention as BeitAttention
from timm.models.eva import EvaAttention
from torch import Tensor
from torch.nn import functional as F

from vitune.surgery.points._base import Points
from vitune.surgery.points.attention import (
    AttentionWithPoints,
    attend,
    in_front,
    mask_for,
    watch,
    with_bias,
    with_context,
)


class PlacedAttentionWithPoints(AttentionWithPoints):
    """timm's `EvaAttention` and `AttentionRope`."""

    def forward(
        self: Any,
        x: Tensor,
        rope: Tensor | None = None,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
        *,
        context: Tensor | None = None,
        context_bias: Tensor | None = None,
    ) -> Tensor:
        """(B, N, D) to (B, N, D); `rope` is the patches' rotation."""
        p: Points = self.vitune.points
        if context is None and p.empty:
            return super().forward(x, rope, attn_mask, is_causal)
        gate, norm = getattr(self, "gate", None), getattr(self, "norm", None)  # not in every release of timm
        rows = with_context(p, x, context)
        q, k, v = _projected(self, x, rows)
        q, k = self.q_norm(q), self.k_norm(k)
        if rope is not None:
            further = k.shape[2] - x.shape[1]
            half = getattr(self, "rotate_half", False)
            q = _rotated(q, rope, self.num_prefix_tokens, half).type_as(v)
            k = _rotated(k, rope, further + self.num_prefix_tokens, half).type_as(v)
        if k.shape[1] != q.shape[1]:  # several queries share a head of keys
            k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], dim=1) for t in (k, v))
        y = _attended(self, p, x, (q, k, v), rows, (attn_mask, is_causal), context_bias)
        y = y if norm is None else norm(y)
        y = y if gate is None else y * gate(x).sigmoid()
        return self.proj_drop(self.proj(y))


class BeitAttentionWithPoints(AttentionWithPoints):
    """BEiT's attention in timm."""

    def forward(
        self: Any,
        x: Tensor,
        shared_rel_pos_bias: Tensor | None = None,
        *,
        context: Tensor | None = None,
        context_bias: Tensor | None = None,
    ) -> Tensor:
        """(B, N, D) to (B, N, D)."""
        p: Points = self.vitune.points
        if context is None and p.empty:
            return super().forward(x, shared_rel_pos_bias)
        rows = with_context(p, x, context)
        own = None if self.relative_position_bias_table is None else self._get_rel_pos_bias()
        biases = [bias for bias in (own, shared_rel_pos_bias) if bias is not None]
        places = sum(biases[1:], start=biases[0]) if biases else None
        y = _attended(self, p, x, _projected(self, x, rows), rows, (places, False), context_bias)
        return self.proj_drop(self.proj(y))


def _projected(module: Any, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries (B, H, N, d) of the tokens x (B, N, D); keys and values of the rows (B, n + N, D)."""
    batch, tokens = x.shape[:2]
    if module.qkv is None:
        layers = ((module.q_proj, x), (module.k_proj, rows), (module.v_proj, rows))
        heads = [layer(z).unflatten(-1, (-1, _head_dim(module))).transpose(1, 2) for layer, z in layers]
        return heads[0], heads[1], heads[2]
    if getattr(module, "q_bias", None) is None:
        qkv = module.qkv(rows)
    else:
        bias = torch.cat((module.q_bias, module.k_bias, module.v_bias))
        qkv = F.linear(rows, module.qkv.weight, bias)
    q, k, v = qkv.reshape(batch, -1, 3, module.num_heads, _head_dim(module)).permute(2, 0, 3, 1, 4).unbind(0)
    return q[:, :, -tokens:], k, v


def _head_dim(module: Any) -> int:
    return module.proj.in_features // module.num_heads


def _rotated(rows: Tensor, rope: Tensor, still: int, half: bool) -> Tensor:
    """Rows (B, H, n, d) whose first ones stay as they are."""
    return torch.cat([rows[:, :, :still], apply_rot_embed_cat(rows[:, :, still:], rope, half=half)], dim=2)


def _attended(
    module: Any,
    points: Points,
    x: Tensor,
    qkv: tuple[Tensor, Tensor, Tensor],
    rows: Tensor,
    masks: tuple[Tensor | None, bool],
    context_bias: Tensor | None,
) -> Tensor:
    """What the heads give, (B, N, D)."""
    q, k, v = qkv
    tokens = x.shape[1]
    watch(points, q, k[:, :, -tokens:], module.scale)
    k, v = in_front(k, v, [layer(x) for layer in points.at("attn.kv").values()])
    mask, causal = mask_for(points, x, k.shape[2] - tokens, *masks)
    mask = with_bias(mask, context_bias, k.shape[2] - rows.shape[1], k.shape[2])
    return attend(module, q, k, v, mask, causal).transpose(1, 2).reshape(x.shape[0], tokens, -1)


FORWARDS = {
    EvaAttention: PlacedAttentionWithPoints,
    AttentionRope: PlacedAttentionWithPoints,
    BeitAttention: BeitAttentionWithPoints,
}
