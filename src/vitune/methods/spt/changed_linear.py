"""A linear layer with single entries of its frozen weight trained: y = x (W + S)^T + b, exactly and leanly.

S holds one number per selected entry. W + S exists only while a product is computed, forward and again backward, so
no copy of W is kept. For the gradient of S, dS_ij = sum over tokens of dy_i x_j, either the input is kept (the very
tensor that its other readers keep) or the selected columns alone, whichever is smaller. The gradient is one product
dy^T x of which the selected entries are taken; where these are few, they are summed one by one instead.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

# Summing one gathered entry takes about as long as this many entries of the whole product (140 to 320 on one thread).
GATHER_COST = 200


def changed_linear(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    values: Tensor,
    index: Tensor,
    shape: tuple[int, int],
    rows: tuple[int, int],
    input_is_kept: bool,
) -> Tensor:
    """x (W + S)^T + b.

    Args:
        x: (..., D_in).
        weight: W, (D_out, D_in), frozen; None: zero.
        bias: (D_out,).
        values: The non-zero entries of S, (n,).
        index: Their places in the flattened W, (n,) int32, each once.
        shape: (D_out, D_in).
        rows: First row of S that is not empty, and the one after its last.
        input_is_kept: Whether x is kept for the backward anyway, by something else.

    Returns:
        (..., D_out).
    """
    x = _autocast(x)
    bias = None if bias is None else bias.to(x.dtype)
    return _ChangedLinear.apply(x, weight, bias, values, index, shape, rows, input_is_kept)  # type: ignore[return-value]


def _autocast(x: Tensor) -> Tensor:
    """The precision that autocast would give the input of a linear layer."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


def _changed(weight: Tensor | None, values: Tensor, index: Tensor, like: Tensor, shape: Any) -> Tensor:
    """W + S, in the precision of `like`."""
    full = values.new_zeros(shape) if weight is None else weight.detach().to(values.dtype)
    # Not in place: so a memory level can tell that this is the weight, and compute the product with it again.
    return full.view(-1).index_add(0, index, values.detach()).view(shape).to(like.dtype)


class _ChangedLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        values: Tensor,
        index: Tensor,
        shape: tuple[int, int],
        rows: tuple[int, int],
        input_is_kept: bool,
    ) -> Tensor:
        width = shape[1]
        ctx.shape, ctx.rows = shape, rows
        ctx.whole = input_is_kept or len(index) >= width
        kept = x if ctx.whole else x.reshape(-1, width).index_select(1, index % width)
        ctx.save_for_backward(kept, weight, values, index)
        return F.linear(x, _changed(weight, values, index, x, shape), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        kept, weight, values, index = ctx.saved_tensors
        dy = gradients[0]
        flat = dy.reshape(-1, ctx.shape[0])
        dx = db = ds = None
        if ctx.needs_input_grad[0]:
            dx = dy @ _changed(weight, values, index, dy, ctx.shape)
        if ctx.needs_input_grad[2]:
            db = flat.sum(0)
        if ctx.needs_input_grad[3]:
            ds = _entries(flat, kept, index, ctx.shape[1], ctx.rows, ctx.whole, values.dtype)
        return dx, None, db, ds, None, None, None, None


def _entries(
    dy: Tensor,
    kept: Tensor,
    index: Tensor,
    width: int,
    rows: tuple[int, int],
    whole: bool,
    dtype: torch.dtype,
) -> Tensor:
    """dy^T x at some places of it, (n,), summed in `dtype`."""
    row, column = index // width, index % width
    if not whole:
        return (dy.index_select(1, row).to(dtype) * kept.to(dtype)).sum(0)
    x = kept.reshape(-1, width)
    first, last = rows
    if len(index) * GATHER_COST >= (last - first) * width:
        product = dy[:, first:last].t() @ x
        return product.reshape(-1).index_select(0, index - first * width).to(dtype)
    parts = zip(
        row.split(width), column.split(width), strict=True
    )  # never more than an input's worth at once
    sums = [(dy.index_select(1, r).to(dtype) * x.index_select(1, c).to(dtype)).sum(0) for r, c in parts]
    return torch.cat(sums)
