"""timm's parallel blocks with points.

Where attention and MLP share one projection, nothing passes between them: the points are those on the residual stream,
and both `beside` points read the block's input. Where several attentions, then several MLPs, run side by side, their
inputs and outputs are many: the points are those on the residual stream in front of, between and behind the two rows.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.models.vision_transformer import ParallelScalingBlock, ParallelThingsBlock
from torch import Tensor

from vitune.anatomy.timm_newer import DiffParallelScalingBlock
from vitune.surgery.points._base import BlockWithPoints, Points


class ParallelScalingBlockWithPoints(BlockWithPoints):
    """timm's `ParallelScalingBlock` and `DiffParallelScalingBlock`."""

    points = ("attn.beside", "mlp.beside", "output")

    def forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(B, N, D) to (B, N, D); further arguments go to the attention."""
        p: Points = self.vitune.points
        total = p.added(p.attn_beside, x, super().forward(x, *args, **kwargs))
        return p.through(p.output, p.added(p.mlp_beside, x, total))


class ParallelThingsBlockWithPoints(BlockWithPoints):
    """timm's `ParallelThingsBlock`."""

    points = ("attn.beside", "middle", "mlp.beside", "output")

    def forward(self: Any, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """(B, N, D) to (B, N, D)."""
        p: Points = self.vitune.points
        if attn_mask is None and not is_causal:
            attended = [branch(x) for branch in self.attns]
        else:
            attended = [
                b.drop_path(b.ls(b.attn(b.norm(x), attn_mask=attn_mask, is_causal=is_causal)))
                for b in self.attns
            ]
        h = p.through(p.middle, p.added(p.attn_beside, x, x + torch.stack(attended).sum(dim=0)))
        mixed = torch.stack([branch(h) for branch in self.ffns]).sum(dim=0)
        return p.through(p.output, p.added(p.mlp_beside, h, h + mixed))


FORWARDS = {
    ParallelScalingBlock: ParallelScalingBlockWithPoints,
    DiffParallelScalingBlock: ParallelScalingBlockWithPoints,
    ParallelThingsBlock: ParallelThingsBlockWithPoints,
}
