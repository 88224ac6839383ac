"""Low-rank updates of some output channels of a layer, for a CPU.

A fused qkv with updates of q and v alone, written as one product with zeros where k is and off the diagonal, takes
three times the operations that it needs and a temporary as large as the output. Here each update is added to its own
channels. As an operation of its own it stays one thing for whatever looks below autograd: counters of FLOPs and what
decides to compute outputs again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vitune.ops.narrow import widening_gradients

Places = Sequence[tuple[int, int]]


def add_low_rank(y: Tensor, latent: Tensor, ups: Sequence[Tensor], places: Places) -> Tensor:
    """y with `latent[:, c : c + R] @ up^T` added to its channels r ..., for each `up` and its place (r, c).

    Args:
        y: Output of a layer, (..., D_out).
        latent: (..., L).
        ups: Matrices (D_i, R_i).
        places: First channel of y and first of the latent, for each.

    Returns:
        Like y.
    """
    rows, columns = [row for row, _ in places], [column for _, column in places]
    return _add_low_rank(y, latent, [up.to(y.dtype) for up in ups], rows, columns)


def worthwhile(y: Tensor) -> bool:
    """Whether to use `add_low_rank`: compilers fuse ordinary products, and GPUs prefer few large ones."""
    return y.device.type == "cpu" and not torch.compiler.is_compiling()


@torch.library.custom_op("vitune::add_low_rank", mutates_args=())
def _add_low_rank(
    y: Tensor, latent: Tensor, ups: list[Tensor], rows: list[int], columns: list[int]
) -> Tensor:
    result = y.clone(memory_format=torch.contiguous_format)
    flat, narrow = result.view(-1, y.shape[-1]), latent.reshape(-1, latent.shape[-1]).to(y.dtype)
    for up, row, column in zip(ups, rows, columns, strict=True):
        flat[:, row : row + up.shape[0]].addmm_(narrow[:, column : column + up.shape[1]], up.t())
    return result


@_add_low_rank.register_fake
def _(y: Tensor, latent: Tensor, ups: list[Tensor], rows: list[int], columns: list[int]) -> Tensor:
    return torch.empty_like(y, memory_format=torch.contiguous_format)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, latent, ups, ctx.rows, ctx.columns = inputs
    ctx.save_for_backward(latent, *ups)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    latent, *ups = ctx.saved_tensors
    narrow = latent.reshape(-1, latent.shape[-1])
    flat = gradient.reshape(-1, gradient.shape[-1])
    d_narrow = narrow.new_zeros(narrow.shape)
    d_ups = []
    for up, row, column in zip(ups, ctx.rows, ctx.columns, strict=True):
        columns = slice(column, column + up.shape[1])
        d_part, d_up = widening_gradients(flat[:, row : row + up.shape[0]], narrow[:, columns], up)
        d_narrow[:, columns] += d_part
        d_ups.append(d_up)
    return gradient, d_narrow.view(latent.shape), d_ups, None, None


_add_low_rank.register_autograd(_backward, setup_context=_setup)

ADD_LOW_RANK = torch.ops.vitune.add_low_rank.default
