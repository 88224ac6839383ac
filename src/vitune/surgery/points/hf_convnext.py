"""transformers' ConvNeXt layer with points: one residual branch, so there are the points of the MLP alone."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from vitune.surgery.points import _maps
from vitune.surgery.points._base import BlockWithPoints, Points


class HFConvNextLayerWithPoints(BlockWithPoints):
    """`dwconv -> norm -> [mlp.input] -> MLP -> [mlp.output] -> (+ x + [mlp.beside](x))`."""

    points: ClassVar[tuple[str, ...]] = ("mlp.input", "mlp.output", "mlp.beside", "output")
    calls = ("dwconv", "layernorm", "pwconv1", "act", "pwconv2", "layer_scale_parameter", "drop_path")

    def forward(self: Any, features: Tensor) -> Tensor:
        """(B, D, height, width) to the same; layers see maps with the channels last."""
        p: Points = self.vitune.points
        x = features
        y = p.through(p.mlp_input, self.layernorm(self.dwconv(x).permute(0, 2, 3, 1)))
        y = p.through(p.mlp_output, self.pwconv2(self.act(self.pwconv1(y))))
        if self.layer_scale_parameter is not None:
            y = self.layer_scale_parameter * y
        y = x + self.drop_path(y.permute(0, 3, 1, 2))
        return _maps.through(p, p.output, _maps.added(p, p.mlp_beside, x, y))


FORWARDS = {("convnext", "ConvNextLayer"): HFConvNextLayerWithPoints}
