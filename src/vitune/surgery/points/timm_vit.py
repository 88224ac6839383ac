"""The blocks of timm's `VisionTransformer` with points."""

from __future__ import annotations

from functools import partial
from typing import Any

from timm.models.vision_transformer import Block
from torch import Tensor

from vitune.surgery.points._base import AROUND, CONTEXT, POINTS, BlockWithPoints, Points, key_mask


class TimmBlockWithPoints(BlockWithPoints):
    """timm's pre-norm `Block`."""

    points = (*POINTS, *AROUND, CONTEXT)
    attention_name = "attn"

    def forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(B, N, D) to (B, N, D); further arguments go to the attention."""
        p: Points = self.vitune.points

        def attention(x: Tensor, keys: Tensor | None = None) -> Tensor:
            z = p.through(p.attn_input, self.norm1(x))
            more = p.further(x, self.norm1)
            if keys is None:
                attended = self.attn(z, *args, **kwargs, **more)
            else:
                attended = self.attn(z, attn_mask=key_mask(keys, *args, kwargs.get("attn_mask")), **more)
            return self.ls1(p.through(p.attn_output, attended))

        def mlp(h: Tensor) -> Tensor:
            return self.ls2(p.through(p.mlp_output, self.mlp(p.through(p.mlp_input, self.norm2(h)))))

        def block(x: Tensor, keys: Tensor | None = None) -> Tensor:
            attended = self.drop_path1(p.wrapped(p.attn_around, x, partial(attention, keys=keys)))
            h = p.through(p.middle, p.added(p.attn_beside, x, x + attended))
            mixed = self.drop_path2(p.wrapped(p.mlp_around, h, mlp))
            return p.through(p.output, p.added(p.mlp_beside, h, h + mixed))

        return p.added(p.beside, x, p.wrapped(p.around, x, block))


FORWARDS = {Block: TimmBlockWithPoints}
