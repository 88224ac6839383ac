"""The attentions of transformers' ViTs with points; see `vitune.surgery.points.attention`."""

from __future__ import annotations

import sys
from typing import Any, ClassVar

import torch
from torch import Tensor

from vitune.surgery.points._base import Points
from vitune.surgery.points.attention import (
    AttentionWithPoints,
    in_front,
    mask_for,
    watch,
    with_bias,
    with_context,
)


class HFViTAttentionWithPoints(AttentionWithPoints):
    """transformers' `ViTAttention`: separate query, key and value layers.

    Attributes:
        source: The module of transformers that has its kernels, looked up so that transformers stays optional.
        names: What it calls its dropout probability, the factor of its scores and its output layer.
        calls: Layers that the forward pass calls.
    """

    source: ClassVar[str] = "transformers.models.vit.modeling_vit"
    names: ClassVar[tuple[str, str, str]] = ("attention_dropout", "scaling", "o_proj")
    calls = ("q_proj", "k_proj", "v_proj")

    def forward(
        self: Any,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        *,
        context: Tensor | None = None,
        context_bias: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """(B, N, D) to (B, N, D) and, where transformers' kernel gives them, the attention weights."""
        p: Points = self.vitune.points
        if context is None and p.empty:
            return super().forward(hidden_states, attention_mask, **kwargs)
        x, rows = hidden_states, with_context(p, hidden_states, context)
        q, k, v = (
            layer(tokens).view(x.shape[0], tokens.shape[1], -1, self.head_dim).transpose(1, 2)
            for layer, tokens in ((self.q_proj, x), (self.k_proj, rows), (self.v_proj, rows))
        )
        q, k = self._placed(q, k, kwargs)
        probability, factor, out = (getattr(self, name) for name in self.names)
        if len(p.at("attn.watch")):
            watch(p, q, k[:, :, -x.shape[1] :], factor)
        k, v = in_front(k, v, [layer(x) for layer in p.at("attn.kv").values()])
        mask, _ = mask_for(p, x, k.shape[2] - x.shape[1], attention_mask)
        mask = with_bias(mask, context_bias, k.shape[2] - rows.shape[1], k.shape[2])
        source = sys.modules[self.source]
        kernel = source.ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, source.eager_attention_forward
        )
        drop = probability if self.training else 0.0
        y, weights = kernel(self, q, k, v, mask, dropout=drop, scaling=factor, **kwargs)
        return out(y.reshape(*x.shape[:-1], -1).contiguous()), weights

    @classmethod
    def _placed(cls, q: Tensor, k: Tensor, arguments: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Queries (B, H, N, d) and keys (B, H, n + N, d) with their positions, taken out of the arguments."""
        return q, k


class HFDeiTAttentionWithPoints(HFViTAttentionWithPoints):
    """transformers' `DeiTAttention`."""

    source = "transformers.models.deit.modeling_deit"


class HFDinov2AttentionWithPoints(HFViTAttentionWithPoints):
    """transformers' `Dinov2Attention`."""

    source = "transformers.models.dinov2.modeling_dinov2"


class HFDinov2WithRegistersAttentionWithPoints(HFViTAttentionWithPoints):
    """transformers' `Dinov2WithRegistersAttention`."""

    source = "transformers.models.dinov2_with_registers.modeling_dinov2_with_registers"


class HFClipAttentionWithPoints(HFViTAttentionWithPoints):
    """transformers' `CLIPAttention`."""

    source = "transformers.models.clip.modeling_clip"
    names = ("dropout", "scale", "out_proj")


class HFSiglipAttentionWithPoints(HFClipAttentionWithPoints):
    """transformers' `SiglipAttention`."""

    source = "transformers.models.siglip.modeling_siglip"


class HFBeitAttentionWithPoints(HFViTAttentionWithPoints):
    """transformers' `BeitAttention`; its layer hands over the relative positions as a mask, 0 for what is further."""

    source = "transformers.models.beit.modeling_beit"


class HFDinov3AttentionWithPoints(HFViTAttentionWithPoints):
    """transformers' `DINOv3ViTAttention`; keys that are further are not rotated, as those of class tokens are not."""

    source = "transformers.models.dinov3_vit.modeling_dinov3_vit"
    names = ("dropout", "scaling", "o_proj")

    @classmethod
    def _placed(cls, q: Tensor, k: Tensor, arguments: dict[str, Any]) -> tuple[Tensor, Tensor]:
        angles = arguments.pop("position_embeddings")
        further, own = k[:, :, : -q.shape[2]], k[:, :, -q.shape[2] :]
        q, own = sys.modules[cls.source].apply_rotary_pos_emb(q, own, *angles)
        return q, torch.cat([further, own], dim=2)


# (model's folder in transformers, class name) -> forward pass.
FORWARDS = {
    ("vit", "ViTAttention"): HFViTAttentionWithPoints,
    ("deit", "DeiTAttention"): HFDeiTAttentionWithPoints,
    ("dinov2", "Dinov2Attention"): HFDinov2AttentionWithPoints,
    ("dinov2_with_registers", "Dinov2WithRegistersAttention"): HFDinov2WithRegistersAttentionWithPoints,
    ("clip", "CLIPAttention"): HFClipAttentionWithPoints,
    ("siglip", "SiglipAttention"): HFSiglipAttentionWithPoints,
    ("beit", "BeitAttention"): HFBeitAttentionWithPoints,
    ("dinov3_vit", "DINOv3ViTAttention"): HFDinov3AttentionWithPoints,
}
