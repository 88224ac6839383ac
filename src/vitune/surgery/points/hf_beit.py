"""transformers' BEiT layer with points."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from vitune.surgery.points._base import CONTEXT, POINTS, BlockWithPoints, Points


class HFBeitLayerWithPoints(BlockWithPoints):
    """transformers' `BeitLayer`: LayerScale is a parameter of the layer, relative positions join the mask."""

    calls = ("layernorm_before", "attention", "layernorm_after", "mlp", "dropout", "relative_position_bias")

    points = (*POINTS, "mlp.around", CONTEXT)
    attention_name = "attention"
    any_tokens = False

    def forward(
        self: Any,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        resolution: tuple[int, int] | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """(B, N, D) to (B, N, D); `resolution` is the image's, further arguments go to the attention."""
        p: Points = self.vitune.points

        def mlp(h: Tensor) -> Tensor:
            mixed = p.through(p.mlp_output, self.mlp(p.through(p.mlp_input, self.layernorm_after(h))))
            return self.lambda_2 * self.dropout(mixed)

        x, mask = hidden_states, attention_mask
        if self.relative_position_bias is not None:
            assert resolution is not None
            window = (resolution[0] // self.patch_size, resolution[1] // self.patch_size)
            bias = self.relative_position_bias(window, interpolate_pos_encoding, dim_size=x.shape[1])
            mask = bias if mask is None else bias + mask
        z = p.through(p.attn_input, self.layernorm_before(x))
        more = p.further(x, self.layernorm_before)
        attended, _ = self.attention(z, attention_mask=mask, **kwargs, **more)
        attended = self.lambda_1 * self.dropout(p.through(p.attn_output, attended))
        h = p.through(p.middle, p.added(p.attn_beside, x, self.drop_path(attended) + x))
        mixed = p.wrapped(p.mlp_around, h, mlp)
        return p.through(p.output, p.added(p.mlp_beside, h, self.drop_path(mixed) + h))


FORWARDS = {("beit", "BeitLayer"): HFBeitLayerWithPoints}
