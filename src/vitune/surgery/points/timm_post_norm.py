"""timm's post-norm blocks with points: norms behind attention and MLP, as in Swin v2.

`*.input` is the residual stream itself, `*.output` lies in front of the norm.
"""

from __future__ import annotations

from typing import Any

from timm.models.eva import EvaBlockPostNorm
from timm.models.vision_transformer import ResPostBlock
from torch import Tensor

from vitune.surgery.points._base import POINTS, BlockWithPoints, Points


class PostNormBlockWithPoints(BlockWithPoints):
    """timm's `ResPostBlock` and `EvaBlockPostNorm`."""

    points = (*POINTS, "mlp.around")

    def forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(B, N, D) to (B, N, D); further arguments go to the attention."""
        p: Points = self.vitune.points

        def mlp(h: Tensor) -> Tensor:
            return self.norm2(p.through(p.mlp_output, self.mlp(p.through(p.mlp_input, h))))

        attended = p.through(p.attn_output, self.attn(p.through(p.attn_input, x), *args, **kwargs))
        h = p.through(p.middle, p.added(p.attn_beside, x, x + self.drop_path1(self.norm1(attended))))
        mixed = self.drop_path2(p.wrapped(p.mlp_around, h, mlp))
        return p.through(p.output, p.added(p.mlp_beside, h, h + mixed))


FORWARDS = {ResPostBlock: PostNormBlockWithPoints, EvaBlockPostNorm: PostNormBlockWithPoints}
