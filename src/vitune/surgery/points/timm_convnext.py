"""The block of timm's `ConvNeXt` with points: one residual branch, so there are the points of the MLP alone."""

from __future__ import annotations

from typing import Any, ClassVar

from timm.models.convnext import ConvNeXtBlock
from torch import Tensor

from vitune.surgery.points import _maps
from vitune.surgery.points._base import BlockWithPoints, Points


class ConvNeXtBlockWithPoints(BlockWithPoints):
    """timm's `ConvNeXtBlock`: `dwconv -> norm -> [mlp.input] -> MLP -> [mlp.output] -> (+ x + [mlp.beside](x))`."""

    points: ClassVar[tuple[str, ...]] = ("mlp.input", "mlp.output", "mlp.beside", "output")

    def forward(self: Any, x: Tensor) -> Tensor:
        """(B, D, height, width) to (B, D', height', width'); layers see maps with the channels last."""
        p: Points = self.vitune.points
        y = self.conv_dw(x)
        if self.use_conv_mlp:
            y = _maps.through(p, p.mlp_input, self.norm(y))
            y = _maps.through(p, p.mlp_output, self.mlp(y))
        else:
            y = p.through(p.mlp_input, self.norm(y.permute(0, 2, 3, 1)))
            y = p.through(p.mlp_output, self.mlp(y)).permute(0, 3, 1, 2)
        if self.gamma is not None:
            y = y.mul(self.gamma.reshape(1, -1, 1, 1))
        y = _maps.added(p, p.mlp_beside, x, self.drop_path(y) + self.shortcut(x))
        return _maps.through(p, p.output, y)


FORWARDS = {ConvNeXtBlock: ConvNeXtBlockWithPoints}
