"""The block of AS-MLP with points: the points of the attention lie around the axial shift."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from vitune.surgery.points import _maps
from vitune.surgery.points._base import BlockWithPoints, Points


class AxialShiftBlockWithPoints(BlockWithPoints):
    """`AxialShiftBlock` of `vitune.backbones`."""

    def forward(self: Any, x: Tensor) -> Tensor:
        """(B, D, height, width) to the same shape; layers see maps with the channels last."""
        p: Points = self.vitune.points
        shifted = self.axial_shift(_maps.through(p, p.attn_input, self.norm1(x)))
        shifted = self.drop_path1(_maps.through(p, p.attn_output, shifted))
        h = _maps.through(p, p.middle, _maps.added(p, p.attn_beside, x, x + shifted))
        mixed = self.mlp(_maps.through(p, p.mlp_input, self.norm2(h)))
        mixed = self.drop_path2(_maps.through(p, p.mlp_output, mixed))
        return _maps.through(p, p.output, _maps.added(p, p.mlp_beside, h, h + mixed))


# The backbones are a layer above; their blocks are known by where they come from: (module, class name).
FORWARDS = {("vitune.backbones.as_mlp", "AxialShiftBlock"): AxialShiftBlockWithPoints}
