"""The unstructured part of SPT: single entries of frozen tensors train, and vectors that are rows of a longer one.

What is trained are differences to the frozen values, which start at zero: W' = W + S, b' = b + scatter(d).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitune.methods.spt.changed_linear import changed_linear
from vitune.surgery import Edit


@dataclass(frozen=True)
class PartPlan:
    """What trains of the rows of a layer that play one role.

    Attributes:
        name: Name of the part.
        rows: First row, and the one after the last.
        weight: Flat places in these rows of the weight, (n,) int32; None: nothing of it trains.
        bias: Places in these rows of the bias, likewise.
        shift: Whether all these rows of the bias train.
    """

    name: str
    rows: tuple[int, int]
    weight: Tensor | None = None
    bias: Tensor | None = None
    shift: bool = False


class Entries(nn.Module):
    """Trained differences of single entries of a tensor: values (n,), and their flat places, index (n,) int32."""

    index: Tensor

    def __init__(self, places: Tensor) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.zeros(len(places)))
        self.register_buffer("index", places.to(torch.int32).clone())

    def added(self, total: Tensor) -> Tensor:
        """A vector with the differences added."""
        return total.index_add(0, self.index, self.values.to(total.dtype))


class Part(nn.Module):
    """The differences of one role."""

    def __init__(self, plan: PartPlan, width: int) -> None:
        super().__init__()
        first, last = plan.rows
        # Places count in the whole layer, so that those of several parts are put together without any arithmetic.
        self.weight = None if plan.weight is None else Entries(plan.weight + first * width)
        self.bias = None if plan.bias is None else Entries(plan.bias + first)
        self.shift = nn.Parameter(torch.zeros(last - first)) if plan.shift else None


class SparseParts(nn.Module):
    """The differences of one layer, by role.

    Args:
        shape: Of the layer's weight, (D_out, D_in), or (D,) of a norm.
        plans: What trains.
        input_is_kept: Whether the layer's input is kept for the backward anyway.
        channels_first: Whether a norm's channels come after the batch.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        plans: tuple[PartPlan, ...],
        input_is_kept: bool = False,
        channels_first: bool = False,
    ) -> None:
        super().__init__()
        self.shape, self.input_is_kept, self.channels_first = shape, input_is_kept, channels_first
        self.rows = {plan.name: plan.rows for plan in plans}
        width = shape[1] if len(shape) == 2 else 1
        for plan in plans:
            self.add_module(plan.name, Part(plan, width))

    def parts(self) -> dict[str, Any]:
        """The parts by name."""
        return {name: getattr(self, name) for name in self.rows}

    def weight_entries(self) -> list[Entries]:
        """Entries of the weight, part by part."""
        return [part.weight for part in self.parts().values() if part.weight is not None]

    def vector(self, tensor: str) -> Tensor | None:
        """The differences of the bias, or of the weight of a norm, as a whole vector (D_out,); None: none trains."""
        entries = [
            getattr(part, tensor) for part in self.parts().values() if getattr(part, tensor) is not None
        ]
        shifts = [
            (self.rows[name], part.shift) for name, part in self.parts().items() if part.shift is not None
        ]
        if not entries and not (shifts and tensor == "bias"):
            return None
        like = entries[0].values if entries else shifts[0][1]
        total = like.new_zeros(self.shape[0])
        for entry in entries:
            total = entry.added(total)
        if tensor == "bias":
            for (first, last), shift in shifts:
                total = total + F.pad(shift, (first, self.shape[0] - last))
        return total

    def forward(self, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        """x (W + S)^T + b + d for x (..., D_in); with W and b None the differences alone, (..., D_out) or (D_out,)."""
        vector = self.vector("bias")
        if vector is not None:
            bias = vector if bias is None else bias + vector
        entries = self.weight_entries()
        if not entries:
            if weight is not None:
                return F.linear(x, weight, bias)
            assert bias is not None
            return bias.to(x.dtype)
        values = entries[0].values if len(entries) == 1 else torch.cat([e.values for e in entries])
        index = entries[0].index if len(entries) == 1 else torch.cat([e.index for e in entries])
        first = min(self.rows[name][0] for name, part in self.parts().items() if part.weight is not None)
        last = max(self.rows[name][1] for name, part in self.parts().items() if part.weight is not None)
        shape = (self.shape[0], self.shape[1])
        return changed_linear(x, weight, bias, values, index, shape, (first, last), self.input_is_kept)


class SparseEdit(Edit):
    """Trains single entries of a linear layer."""

    key = "spt_sparse"

    def forward(self: Any, x: Tensor) -> Tensor:
        """(..., D_in) to (..., D_out)."""
        layer: SparseParts = self.vitune.spt_sparse
        base, edits = self._vitune_parts
        if edits[-1] is SparseEdit and base.forward is nn.Linear.forward:
            return layer(x, self.weight, self.bias)  # one product for W and S
        return super().forward(x) + layer(x, None, None)  # other edits lie between

    @staticmethod
    def can_fold(module: nn.Module) -> bool:
        """Always."""
        return True

    @staticmethod
    def fold(module: Any, layer: nn.Module) -> None:
        """W + S, b + d."""
        assert isinstance(layer, SparseParts)
        weight = module.weight.float()
        for entries in layer.weight_entries():
            weight = weight.flatten().index_add(0, entries.index, entries.values.float()).view(weight.shape)
        module.weight.copy_(weight)
        shift = layer.vector("bias")
        if shift is not None:
            module.bias.copy_(module.bias.float() + shift.float())


class SparseNormEdit(Edit):
    """Trains single entries of a norm's scale and shift: y + norm(x) dw + db, where norm has no affine of its own."""

    key = "spt_norm"

    def forward(self: Any, x: Tensor) -> Tensor:
        """As the norm."""
        layer: SparseParts = self.vitune.spt_norm
        y = super().forward(x)
        scale, shift = layer.vector("weight"), layer.vector("bias")
        z = x.movedim(1, -1) if layer.channels_first else x
        scale, shift = (None if change is None else change.to(z.dtype) for change in (scale, shift))
        if scale is None:
            extra = shift
        elif isinstance(self, nn.LayerNorm):
            extra = F.layer_norm(z, layer.shape, scale, shift, self.eps)
        else:
            extra = F.rms_norm(z, layer.shape, scale, self.eps)
            extra = extra if shift is None else extra + shift
        assert extra is not None
        if layer.channels_first:
            extra = extra[:, None, None] if extra.dim() == 1 else extra.movedim(-1, 1)
        return y + extra.to(y.dtype)

    @staticmethod
    def can_fold(module: nn.Module) -> bool:
        """Always."""
        return True

    @staticmethod
    def fold(module: Any, layer: nn.Module) -> None:
        """w + dw, b + db."""
        assert isinstance(layer, SparseParts)
        for tensor in ("weight", "bias"):
            change = layer.vector(tensor)
            if change is not None:
                parameter = getattr(module, tensor)
                parameter.copy_(parameter.float() + change.float())
