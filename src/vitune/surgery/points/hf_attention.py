"""The attention of transformers' ViT with points; see `vitune.surgery.points.attention`."""

from __future__ import annotations

import sys
from typing import Any, ClassVar

from torch import Tensor

from vitune.surgery.points._base import Points
from vitune.surgery.points.attention import AttentionWithPoints, in_front, mask_for, watch, with_context


class HFViTAttentionWithPoints(AttentionWithPoints):
    """transformers' `ViTAttention`: separate query, key and value layers.

    Attributes:
        source: The module of transformers that has its kernels, looked up so that transformers stays optional.
    """

    source: ClassVar[str] = "transformers.models.vit.modeling_vit"

    def forward(
        self: Any,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        *,
        context: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """(B, N, D) to (B, N, D) and, where transformers' kernel gives them, the attention weights."""
        p: Points = self.vitune.points
        if context is None and p.empty:
            return super().forward(hidden_states, attention_mask, **kwargs)
        x, rows = hidden_states, with_context(p, hidden_states, context)
        q, k, v = (
            layer(tokens).view(x.shape[0], -1, self.num_attention_heads, self.head_dim).transpose(1, 2)
            for layer, tokens in ((self.q_proj, x), (self.k_proj, rows), (self.v_proj, rows))
        )
        if len(p.at("attn.watch")):
            watch(p, q, k[:, :, -x.shape[1] :], self.scaling)
        k, v = in_front(k, v, [layer(x) for layer in p.at("attn.kv").values()])
        mask, _ = mask_for(p, x, k.shape[2] - x.shape[1], attention_mask)
        source = sys.modules[self.source]
        kernel = source.ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, source.eager_attention_forward
        )
        drop = self.attention_dropout if self.training else 0.0
        y, weights = kernel(self, q, k, v, mask, dropout=drop, scaling=self.scaling, **kwargs)
        return self.o_proj(y.reshape(*x.shape[:-1], -1).contiguous()), weights


class HFDeiTAttentionWithPoints(HFViTAttentionWithPoints):
    """transformers' `DeiTAttention`."""

    source = "transformers.models.deit.modeling_deit"


class HFDinov2AttentionWithPoints(HFViTAttentionWithPoints):
    """transformers' `Dinov2Attention`."""

    source = "transformers.models.dinov2.modeling_dinov2"


class HFDinov2WithRegistersAttentionWithPoints(HFViTAttentionWithPoints):
    """transformers' `Dinov2WithRegistersAttention`."""

    source = "transformers.models.dinov2_with_registers.modeling_dinov2_with_registers"


# (model's folder in transformers, class name) -> forward pass.
FORWARDS = {
    ("vit", "ViTAttention"): HFViTAttentionWithPoints,
    ("deit", "DeiTAttention"): HFDeiTAttentionWithPoints,
    ("dinov2", "Dinov2Attention"): HFDinov2AttentionWithPoints,
    ("dinov2_with_registers", "Dinov2WithRegistersAttention"): HFDinov2WithRegistersAttentionWithPoints,
}
