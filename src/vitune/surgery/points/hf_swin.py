"""transformers' Swin layer with points; all tensors at the points are (B, N, D), N in raster order."""

from __future__ import annotations

import sys
from typing import Any, ClassVar

from torch import Tensor

from vitune.surgery.points._base import POINTS, BlockWithPoints, Points


class HFSwinLayerWithPoints(BlockWithPoints):
    """transformers' `SwinLayer`.

    Attributes:
        source: The module of transformers that cuts windows, looked up so that transformers stays optional.
    """

    points = (*POINTS, "mlp.around")
    source: ClassVar[str] = "transformers.models.swin.modeling_swin"
    calls = (
        "layernorm_before",
        "attention",
        "layernorm_after",
        "mlp",
        "dropout",
        "cyclic_shift",
        "maybe_pad",
    )

    def forward(
        self: Any,
        hidden_states: Tensor,
        input_dimensions: tuple[int, int],
        always_partition: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """(B, N, D) to (B, N, D) and the attention weights where transformers' kernel gives them."""
        p: Points = self.vitune.points

        def mlp(h: Tensor) -> Tensor:
            return p.through(p.mlp_output, self.mlp(p.through(p.mlp_input, self.layernorm_after(h))))

        if not always_partition:
            self.set_shift_and_window_size(input_dimensions)
        x = hidden_states
        z = p.through(p.attn_input, self.layernorm_before(x))
        attended, weights = _in_windows(self, z, *input_dimensions, **kwargs)
        attended = self.drop_path(self.dropout(p.through(p.attn_output, attended)))
        h = p.through(p.middle, p.added(p.attn_beside, x, x + attended))
        mixed = p.wrapped(p.mlp_around, h, mlp)
        return p.through(p.output, p.added(p.mlp_beside, h, self.dropout(mixed) + h)), weights


def _in_windows(
    layer: Any, x: Tensor, height: int, width: int, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    """Attention of x (B, N, D) within shifted windows."""
    source = sys.modules[layer.source]
    batch, _, channels = x.shape
    padded, _ = layer.maybe_pad(x.view(batch, height, width, channels), height, width)
    high, wide, side = padded.shape[1], padded.shape[2], layer.window_size
    windows = source.window_partition(layer.cyclic_shift(padded), side).view(-1, side * side, channels)
    mask = layer.get_attn_mask(high, wide, dtype=x.dtype, device=x.device)
    attended, weights = layer.attention(windows, mask, **kwargs)
    whole = source.window_reverse(attended.view(-1, side, side, channels), side, high, wide)
    whole = layer.cyclic_shift(whole, reverse=True)[:, :height, :width]
    return whole.reshape(batch, height * width, channels), weights


FORWARDS = {("swin", "SwinLayer"): HFSwinLayerWithPoints}
