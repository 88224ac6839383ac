"""The blocks of timm's `MlpMixer` with points: the points of the attention lie around the mixing of tokens."""

from __future__ import annotations

from typing import Any

from timm.models.mlp_mixer import MixerBlock, ResBlock
from torch import Tensor

from vitune.surgery.points._base import POINTS, BlockWithPoints, Points


class MixerBlockWithPoints(BlockWithPoints):
    """timm's `MixerBlock`, of MLP-Mixer."""

    points = (*POINTS, "mlp.around")

    def forward(self: Any, x: Tensor) -> Tensor:
        """(B, N, D) to (B, N, D)."""
        p: Points = self.vitune.points

        def mlp(h: Tensor) -> Tensor:
            return p.through(p.mlp_output, self.mlp_channels(p.through(p.mlp_input, self.norm2(h))))

        tokens = self.mlp_tokens(p.through(p.attn_input, self.norm1(x)).transpose(1, 2)).transpose(1, 2)
        tokens = self.drop_path(p.through(p.attn_output, tokens))
        h = p.through(p.middle, p.added(p.attn_beside, x, x + tokens))
        mixed = self.drop_path(p.wrapped(p.mlp_around, h, mlp))
        return p.through(p.output, p.added(p.mlp_beside, h, h + mixed))


class ResMlpBlockWithPoints(BlockWithPoints):
    """timm's `ResBlock`, of ResMLP."""

    points = (*POINTS, "mlp.around")

    def forward(self: Any, x: Tensor) -> Tensor:
        """(B, N, D) to (B, N, D)."""
        p: Points = self.vitune.points

        def mlp(h: Tensor) -> Tensor:
            mixed = self.mlp_channels(p.through(p.mlp_input, self.norm2(h)))
            return self.ls2 * p.through(p.mlp_output, mixed)

        tokens = self.linear_tokens(p.through(p.attn_input, self.norm1(x)).transpose(1, 2)).transpose(1, 2)
        tokens = self.drop_path(self.ls1 * p.through(p.attn_output, tokens))
        h = p.through(p.middle, p.added(p.attn_beside, x, x + tokens))
        mixed = self.drop_path(p.wrapped(p.mlp_around, h, mlp))
        return p.through(p.output, p.added(p.mlp_beside, h, h + mixed))


FORWARDS = {MixerBlock: MixerBlockWithPoints, ResBlock: ResMlpBlockWithPoints}
