"""Named points inside a transformer block, where methods put layers.

`x -> norm1 -> [attn.input] -> attention -> [attn.output] -> (+ x + [attn.beside](x)) -> [middle]`
`h -> norm2 -> [mlp.input]  -> MLP       -> [mlp.output]  -> (+ h + [mlp.beside](h))  -> [output]`

A layer at a `beside` point reads the residual stream and its result is added to the block's sum (no drop path, no
LayerScale); a layer at any other point replaces the tensor that passes: (B, N, D) to (B, N, D). `*.output` lies before
LayerScale and drop path. Each family supplies the forward pass of its block with points once.
"""

from __future__ import annotations

from typing import Any

from timm.models.vision_transformer import Block as TimmBlock
from torch import Tensor, nn

from vitune.errors import UnsupportedBackboneError
from vitune.surgery.edits import Edit, parts_of

POINTS = (
    "attn.input",
    "attn.output",
    "attn.beside",
    "middle",
    "mlp.input",
    "mlp.output",
    "mlp.beside",
    "output",
)


class Points(nn.Module):
    """The layers at the points of one block, by point and then by the name of the method that put them there."""

    attn_input: nn.ModuleDict
    attn_output: nn.ModuleDict
    attn_beside: nn.ModuleDict
    middle: nn.ModuleDict
    mlp_input: nn.ModuleDict
    mlp_output: nn.ModuleDict
    mlp_beside: nn.ModuleDict
    output: nn.ModuleDict

    def __init__(self) -> None:
        super().__init__()
        for point in POINTS:
            self.add_module(point.replace(".", "_"), nn.ModuleDict())

    def at(self, point: str) -> nn.ModuleDict:
        """The layers at a point, in the order they were put."""
        return self.get_submodule(point.replace(".", "_"))  # type: ignore[return-value]

    @property
    def empty(self) -> bool:
        """Whether no layer is left."""
        return not any(len(self.at(point)) for point in POINTS)

    def through(self, layers: nn.ModuleDict, x: Tensor) -> Tensor:
        """Pass a tensor (B, N, D) through the layers of a point."""
        for layer in layers.values():
            x = layer(x)
        return x

    def added(self, layers: nn.ModuleDict, stream: Tensor, total: Tensor) -> Tensor:
        """Add what the layers of a `beside` point make of the stream (B, N, D) to a sum (B, N, D)."""
        for layer in layers.values():
            total = total + layer(stream)
        return total


class BlockWithPoints(Edit):
    """Base of the forward passes with points."""

    key = "points"


class TimmBlockWithPoints(BlockWithPoints):
    """timm's pre-norm `Block`."""

    def forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(B, N, D) to (B, N, D); further arguments go to the attention."""
        p: Points = self.vitune.points
        attended = self.attn(p.through(p.attn_input, self.norm1(x)), *args, **kwargs)
        attended = self.drop_path1(self.ls1(p.through(p.attn_output, attended)))
        h = p.through(p.middle, p.added(p.attn_beside, x, x + attended))
        mixed = self.mlp(p.through(p.mlp_input, self.norm2(h)))
        mixed = self.drop_path2(self.ls2(p.through(p.mlp_output, mixed)))
        return p.through(p.output, p.added(p.mlp_beside, h, h + mixed))


class HFViTLayerWithPoints(BlockWithPoints):
    """transformers' `ViTLayer`."""

    def forward(self: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(B, N, D) to (B, N, D); further arguments go to the attention."""
        p: Points = self.vitune.points
        x = hidden_states
        attended, _ = self.attention(p.through(p.attn_input, self.layernorm_before(x)), *args, **kwargs)
        attended = self.dropout(p.through(p.attn_output, attended))
        h = p.through(p.middle, p.added(p.attn_beside, x, attended + x))
        mixed = self.mlp(p.through(p.mlp_input, self.layernorm_after(h)))
        mixed = self.dropout(p.through(p.mlp_output, mixed))
        return p.through(p.output, p.added(p.mlp_beside, h, mixed + h))


def points_for(block: nn.Module) -> type[BlockWithPoints]:
    """The forward pass with points that fits a block.

    Raises:
        UnsupportedBackboneError: If none does.
    """
    base, _ = parts_of(block)
    if issubclass(base, TimmBlock):
        return TimmBlockWithPoints
    # transformers is optional; its layer is known by where it comes from.
    if base.__name__ == "ViTLayer" and base.__module__ == "transformers.models.vit.modeling_vit":
        return HFViTLayerWithPoints
    raise UnsupportedBackboneError(
        f"no forward pass with points is known for the block class {base.__name__}; looked for timm's Block and "
        f"transformers' ViTLayer."
    )
