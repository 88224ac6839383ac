"""What a point is: the names, the layers at the points of one block, and the base of the forward passes with points."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from vitune.errors import SurgeryError
from vitune.surgery.edits import Edit

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

# Further tokens in the residual stream, (1 or B, n, D): attended to, never asking, gone after the attention. Only in
# blocks whose attention has points too; the layers are called with the stream (B, N, D). A layer with a method
# `score_bias` says there what is added to every score of its tokens, (n,), or None.
CONTEXT = "context"

# Rows that go through the blocks beside a map of patches, (B, n, D): what a sequence would hold in front of its tokens.
# Its one layer takes them out of the block's input and puts them into its output: `split(x)`, `join(x, rows)`; where it
# is `mixed`, windows get them in the wrong order (see `windows`).
ROWS = "rows"

# Points that only some blocks have: around a branch or the whole block, and beside the whole block.
AROUND = ("attn.around", "mlp.around", "around", "beside")

Branch = Callable[..., Tensor]
"""A branch as a function of the residual stream (B, N, D), or of some of its rows (B, n, D)."""


class Points(nn.Module):
    """The layers at the points of one module, by point and then by the name of the method that put them there."""

    attn_input: nn.ModuleDict
    attn_output: nn.ModuleDict
    attn_beside: nn.ModuleDict
    middle: nn.ModuleDict
    mlp_input: nn.ModuleDict
    mlp_output: nn.ModuleDict
    mlp_beside: nn.ModuleDict
    output: nn.ModuleDict
    attn_around: nn.ModuleDict
    mlp_around: nn.ModuleDict
    around: nn.ModuleDict
    beside: nn.ModuleDict
    context: nn.ModuleDict
    rows: nn.ModuleDict

    def __init__(self, points: tuple[str, ...] = POINTS) -> None:
        super().__init__()
        self.points = points
        for point in points:
            self.add_module(point.replace(".", "_"), nn.ModuleDict())

    def at(self, point: str) -> nn.ModuleDict:
        """The layers at a point, in the order they were put."""
        return self.get_submodule(point.replace(".", "_"))  # type: ignore[return-value]

    @property
    def empty(self) -> bool:
        """Whether no layer is left."""
        return not any(len(self.at(point)) for point in self.points)

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

    def wrapped(self, layers: nn.ModuleDict, stream: Tensor, branch: Branch) -> Tensor:
        """What the layers of an `around` point make of a branch: each is called with the stream and what it is
        around, a function, and gives what stands for that function's value on the stream; the latest is outermost."""
        for layer in layers.values():
            branch = _around(layer, branch)
        return branch(stream)

    def further(self, stream: Tensor, norm: nn.Module) -> dict[str, Tensor]:
        """What a block hands to its attention beside the tokens, as keyword arguments.

        Args:
            stream: The residual stream (B, N, D).
            norm: The block's norm in front of its attention; it acts on the rows of `context` as on tokens.
        """
        found = [(layer(stream), getattr(layer, "score_bias", None)) for layer in self.context.values()]
        given = [(row, None if bias is None else bias()) for row, bias in found if row is not None]
        if not given:
            return {}
        rows = [row for row, _ in given]
        batch = max(row.shape[0] for row in rows)
        joined = rows[0] if len(rows) == 1 else torch.cat([r.expand(batch, -1, -1) for r in rows], dim=1)
        further = {"context": self.through(self.attn_input, norm(joined))}
        if any(bias is not None for _, bias in given):
            biases = [joined.new_zeros(row.shape[1]) if bias is None else bias for row, bias in given]
            further["context_bias"] = torch.cat([bias.to(joined.dtype) for bias in biases])
        return further


def _around(layer: nn.Module, branch: Branch) -> Branch:
    return lambda stream: layer(stream, branch)


def key_mask(keys: Tensor, *masks: Tensor | None) -> Tensor:
    """The attention mask (B, 1, 1, n) that hides the keys (B, n) which are False, for a branch that is asked to.

    Args:
        keys: Tokens that may be attended to.
        *masks: Attention masks that the block was given; there must be none.

    Raises:
        SurgeryError: If the block was given an attention mask already.
    """
    if any(mask is not None for mask in masks):
        raise SurgeryError(
            "a layer around the attention hides tokens, so the block cannot take an attention mask "
            "as well; call the model without one."
        )
    return keys[:, None, None, :]


class WithPoints(Edit):
    """Base of the forward passes with points.

    Attributes:
        points: The points that its forward pass has.
        calls: Layers that its forward pass calls and that not every release of the library has under these names.
    """

    key = "points"
    inner = True
    points: ClassVar[tuple[str, ...]]
    calls: ClassVar[tuple[str, ...]] = ()


class BlockWithPoints(WithPoints):
    """Base of the forward passes of blocks with points.

    Attributes:
        attention_name: Name of the attention in a block that has the point `context`.
        any_tokens: Whether the block may run for some of the tokens while the others are `context`: not where its
            attention knows which token stands where.
    """

    points = POINTS
    attention_name: ClassVar[str] = ""
    any_tokens: ClassVar[bool] = True
