"""The blocks of timm's `SwinTransformer` and `SwinTransformerV2` with points.

All tensors are (B, height, width, D). In a Swin v2 block, whose norms come after attention and MLP, `*.input` is the
residual stream itself and `*.output` lies in front of the norm.
"""

from __future__ import annotations

from typing import Any

from timm.models.swin_transformer import SwinTransformerBlock
from timm.models.swin_transformer_v2 import SwinTransformerV2Block
from torch import Tensor

from vitune.surgery.points._base import CONTEXT, POINTS, ROWS, BlockWithPoints, Points
from vitune.surgery.points.windows import window_attention


class SwinBlockWithPoints(BlockWithPoints):
    """timm's `SwinTransformerBlock`."""

    points = (*POINTS, "mlp.around", CONTEXT, ROWS)
    attention_name = "attn"

    def forward(self: Any, x: Tensor) -> Tensor:
        """(B, height, width, D) to the same shape."""
        p: Points = self.vitune.points

        def mlp(h: Tensor) -> Tensor:
            return p.through(p.mlp_output, self.mlp(p.through(p.mlp_input, self.norm2(h))))

        def rest(x: Tensor, attended: Tensor) -> Tensor:
            attended = self.drop_path1(p.through(p.attn_output, attended))
            h = p.through(p.middle, p.added(p.attn_beside, x, x + attended))
            mixed = self.drop_path2(p.wrapped(p.mlp_around, h, mlp))
            return p.through(p.output, p.added(p.mlp_beside, h, h + mixed))

        carriers: list[Any] = list(p.rows.values())
        rows = None
        if carriers:
            x, rows = carriers[0].split(x)
        further = p.further(x, self.norm1)
        z = p.through(p.attn_input, self.norm1(x))
        if rows is None and not further:
            return rest(x, self._attn(z))
        asking = None if rows is None else p.through(p.attn_input, self.norm1(rows))
        confused = any(getattr(carrier, "mixed", False) for carrier in carriers)
        attended, told = window_attention(self, z, further, asking, confused)
        y = rest(x, attended)
        if rows is None or told is None:
            return y
        return carriers[0].join(y, rest(rows, told))


class SwinV2BlockWithPoints(BlockWithPoints):
    """timm's `SwinTransformerV2Block`: the norms come after attention and MLP."""

    points = (*POINTS, "mlp.around")

    def forward(self: Any, x: Tensor) -> Tensor:
        """(B, height, width, D) to the same shape."""
        p: Points = self.vitune.points

        def mlp(h: Tensor) -> Tensor:
            return self.norm2(p.through(p.mlp_output, self.mlp(p.through(p.mlp_input, h))))

        attended = self._attn(p.through(p.attn_input, x))
        attended = self.drop_path1(self.norm1(p.through(p.attn_output, attended)))
        h = p.through(p.middle, p.added(p.attn_beside, x, x + attended))
        mixed = self.drop_path2(p.wrapped(p.mlp_around, h, mlp))
        return p.through(p.output, p.added(p.mlp_beside, h, h + mixed))


FORWARDS = {SwinTransformerBlock: SwinBlockWithPoints, SwinTransformerV2Block: SwinV2BlockWithPoints}
