"""The structured part of SPT: a LoRA or an adapter on a whole matrix (paper, fig. 2; `lib/structured.py` of the code).

LoRA: y = W x + b + Up(Down(drop(x))), no factor. Adapter: z = W x + b, y = z + Up(GELU(Down(drop(z)))), except on the
attention's output projection, whose adapter reads x in place of z. That layer's module has no dropout in either form.
After Up a branch is dropped per image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitune.methods.lora import LoRA, LowRank
from vitune.methods.spt.adapted import adapted
from vitune.ops.narrow import widen
from vitune.surgery import Edit

INIT_STD = 0.02


@dataclass(frozen=True)
class ModulePlan:
    """One layer's modules.

    Attributes:
        names: Name of the part that each one is for.
        rows: Its rows of the layer; None: all.
        in_features: Of the layer.
        out_features: Of the layer.
        rank: Rank or bottleneck.
        dropout: Probability, on what a module reads.
        drop_path: Probability that an image goes without a module's branch.
        zero_up: Whether Up starts at zero; drawn like Down otherwise.
        bias: Whether adapters have biases.
        parallel: Whether adapters read the layer's input.
        output_is_kept: Whether what follows keeps the layer's output for the backward.
    """

    names: tuple[str, ...]
    rows: tuple[slice | None, ...]
    in_features: int
    out_features: int
    rank: int
    dropout: float
    drop_path: float
    zero_up: bool
    bias: bool
    parallel: bool
    output_is_kept: bool


class SPTLowRank(LowRank):
    """The LoRAs of one layer; one dropout mask serves them all."""

    def __init__(self, plan: ModulePlan) -> None:
        config = LoRA(rank=plan.rank, dropout=plan.dropout, dropout_at="input")
        super().__init__(plan.in_features, plan.out_features, list(plan.names), list(plan.rows), config)
        self.drop_path = plan.drop_path
        if not plan.zero_up:
            for factors in self._factors():
                nn.init.trunc_normal_(factors.down, std=INIT_STD)
                nn.init.trunc_normal_(factors.up, std=INIT_STD)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Update the layer's output y (B, ..., D_out) from its input x (B, ..., D_in)."""
        latent = dropped_linear(x, self.down(), None, self.dropout, self.training)
        # Up has no bias, so dropping the latent drops the branch.
        parts = latent.unflatten(-1, (len(self.names), self.rank))
        latent = drop_path(parts, self.drop_path, self.training, per_part=True).flatten(-2)
        return self.added(latent, y)


class LoRAEdit(Edit):
    """Adds SPT's LoRAs to the output of a linear layer."""

    key = "spt_lora"

    def forward(self, x: Tensor) -> Tensor:
        """(..., D_in) to (..., D_out)."""
        return self.vitune.spt_lora(x, super().forward(x))

    @staticmethod
    def can_fold(module: nn.Module) -> bool:
        """Always."""
        return True

    @staticmethod
    def fold(module: Any, layer: nn.Module) -> None:
        """W + Up Down."""
        assert isinstance(layer, SPTLowRank)
        module.weight.copy_(module.weight.float() + layer.float().delta())


class Bottleneck(nn.Module):
    """Down, GELU, Up of one adapter."""

    def __init__(self, reads: int, writes: int, plan: ModulePlan) -> None:
        super().__init__()
        self.dropout = 0.0 if plan.parallel else plan.dropout
        self.drop_path = plan.drop_path
        self.down = nn.Linear(reads, plan.rank, bias=plan.bias)  # starts kaiming-uniform(a = sqrt 5)
        self.up = nn.Linear(plan.rank, writes, bias=plan.bias)
        if not plan.zero_up:
            nn.init.trunc_normal_(self.down.weight, std=INIT_STD)
            nn.init.trunc_normal_(self.up.weight, std=INIT_STD)
        for zero in (self.up.weight if plan.zero_up else None, self.up.bias, self.down.bias):
            if zero is not None:
                nn.init.zeros_(zero)

    def forward(self, x: Tensor) -> Tensor:
        """The branch: (B, ..., D_in) to (B, ..., D_out)."""
        latent = dropped_linear(x, self.down.weight, self.down.bias, self.dropout, self.training)
        branch = widen(F.gelu(latent), self.up.weight, self.up.bias)
        return drop_path(branch, self.drop_path, self.training)

    def added(self, z: Tensor) -> Tensor:
        """z (B, ..., D) with its branch added, for a sum that is kept for the backward anyway."""
        keep, factor = dropout_mask(z, self.dropout, self.training)
        images = path_factors(z, self.drop_path, self.training)
        down, up = (self.down.weight, self.down.bias), (self.up.weight, self.up.bias)
        return adapted(z, down, up, keep, factor, images)


class Adapters(nn.Module):
    """The adapters of one layer, by part."""

    def __init__(self, plan: ModulePlan) -> None:
        super().__init__()
        self.parallel, self.output_is_kept = plan.parallel, plan.output_is_kept
        self.rows = dict(zip(plan.names, plan.rows, strict=True))
        for name, rows in self.rows.items():
            writes = plan.out_features if rows is None else rows.stop - rows.start
            self.add_module(name, Bottleneck(plan.in_features if plan.parallel else writes, writes, plan))

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """Change the layer's output z (..., D_out); x (..., D_in) is its input."""
        pieces, row = [], 0
        for name, rows in self.rows.items():
            adapter = getattr(self, name)
            if rows is None and self.output_is_kept and not self.parallel:
                return adapter.added(z)
            if rows is None:
                return z + adapter(x if self.parallel else z)
            pieces.append(z[..., row : rows.start])
            # A copy: a slice that is kept for the backward would keep all rows.
            part = z[..., rows].contiguous()
            pieces.append(part + adapter(x if self.parallel else part))
            row = rows.stop
        return torch.cat([*pieces, z[..., row:]], -1)


class AdapterEdit(Edit):
    """Puts SPT's adapters behind (or, on the output projection, beside) a linear layer; cannot be folded."""

    key = "spt_adapter"

    def forward(self, x: Tensor) -> Tensor:
        """(..., D_in) to (..., D_out)."""
        return self.vitune.spt_adapter(x, super().forward(x))


def drop_path(branch: Tensor, probability: float, training: bool, *, per_part: bool = False) -> Tensor:
    """Drop the branch of whole images, and scale the others up so that the mean stays.

    Args:
        branch: (B, ..., D); (B, ..., parts, D) where parts are dropped apart.
        probability: Share of images that go without.
        training: Nothing is dropped otherwise.
        per_part: Whether the last axis but one counts parts.
    """
    factors = path_factors(branch, probability, training, per_part=per_part)
    return branch if factors is None else branch * factors


def path_factors(
    branch: Tensor, probability: float, training: bool, *, per_part: bool = False
) -> Tensor | None:
    """What `drop_path` multiplies a branch with, (B, 1, ...); None: nothing."""
    if not training or probability == 0:
        return None
    shape = [branch.shape[0]] + [1] * (branch.dim() - 1)
    if per_part:
        shape[-2] = branch.shape[-2]
    keep = torch.rand(shape, device=branch.device) >= probability
    return (keep / (1 - probability)).to(branch.dtype)


def dropout_mask(x: Tensor, probability: float, training: bool) -> tuple[Tensor | None, float]:
    """What dropout leaves of x, one byte per number, and the factor of it; None: all."""
    if not training or probability == 0:
        return None, 1.0
    return torch.rand(x.shape, device=x.device) >= probability, 1 / (1 - probability)


def dropped_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, probability: float, training: bool
) -> Tensor:
    """Linear layer after dropout; keeps x and one byte per number of it, not the dropped copy.

    Args:
        x: (..., D_in).
        weight: (D_out, D_in).
        bias: (D_out,), or None.
        probability: Of dropout.
        training: Nothing is dropped otherwise.
    """
    keep, factor = dropout_mask(x, probability, training)
    if keep is None:
        return F.linear(x, weight, bias)
    kind = x.device.type
    if torch.is_autocast_enabled(kind):
        x, weight = (tensor.to(torch.get_autocast_dtype(kind)) for tensor in (x, weight))
    y = _DroppedLinear.apply(x, keep, weight, factor)
    assert isinstance(y, Tensor)
    return y if bias is None else y + bias.to(y.dtype)


class _DroppedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, keep: Tensor, weight: Tensor, factor: float) -> Tensor:
        ctx.save_for_backward(x, keep, weight)
        ctx.factor = factor
        return F.linear(x * keep * factor, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, keep, weight = ctx.saved_tensors
        dy = gradients[0]
        dx = (dy @ weight) * keep * ctx.factor if ctx.needs_input_grad[0] else None
        dw = None
        if ctx.needs_input_grad[2]:
            read = x * keep * ctx.factor
            dw = dy.reshape(-1, dy.shape[-1]).t() @ read.reshape(-1, read.shape[-1])
        return dx, None, dw, None
