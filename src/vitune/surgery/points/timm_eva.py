"""The blocks of timm's `Eva` and `Beit` with points: LayerScale is a parameter of the block."""

from __future__ import annotations

from typing import Any

from timm.models.beit import Block as BeitBlock
from timm.models.eva import EvaBlock
from torch import Tensor

from vitune.surgery.points._base import CONTEXT, POINTS, BlockWithPoints, Points


class EvaBlockWithPoints(BlockWithPoints):
    """timm's `EvaBlock`, and BEiT's block, which has the same parts."""

    points = (*POINTS, "mlp.around", CONTEXT)
    attention_name = "attn"
    any_tokens = False

    def forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(B, N, D) to (B, N, D); further arguments go to the attention."""
        p: Points = self.vitune.points

        def mlp(h: Tensor) -> Tensor:
            mixed = p.through(p.mlp_output, self.mlp(p.through(p.mlp_input, self.norm2(h))))
            return mixed if self.gamma_2 is None else self.gamma_2 * mixed

        more = p.further(x, self.norm1)
        attended = p.through(
            p.attn_output, self.attn(p.through(p.attn_input, self.norm1(x)), *args, **kwargs, **more)
        )
        attended = self.drop_path1(attended if self.gamma_1 is None else self.gamma_1 * attended)
        h = p.through(p.middle, p.added(p.attn_beside, x, x + attended))
        mixed = self.drop_path2(p.wrapped(p.mlp_around, h, mlp))
        return p.through(p.output, p.added(p.mlp_beside, h, h + mixed))


FORWARDS = {EvaBlock: EvaBlockWithPoints, BeitBlock: EvaBlockWithPoints}
