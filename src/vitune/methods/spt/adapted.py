"""An adapter behind a layer that keeps its output for the backward, not its input: y = z + Up(GELU(Down(drop(z)))).

Down's gradient needs z. What follows (the activation of an MLP, attention) keeps y anyway, and z is y less the branch,
which is made again from Down's few numbers per token. So an adapter behind the first layer of an MLP adds no tensor of
the MLP's width to what is kept. z comes back within rounding, an error of the last bit or two.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vitune.ops.narrow import widening_gradients


def adapted(
    z: Tensor,
    down: tuple[Tensor, Tensor | None],
    up: tuple[Tensor, Tensor | None],
    keep: Tensor | None,
    factor: float,
    images: Tensor | None,
) -> Tensor:
    """z with an adapter's branch added.

    Args:
        z: (B, ..., D).
        down: Weight (R, D) and bias (R,) or None.
        up: Weight (D, R) and bias (D,) or None.
        keep: What dropout leaves of z, of its shape; None: all.
        factor: Of what it leaves.
        images: Factor of the branch for each image, (B, 1, ...); None: 1.

    Returns:
        y, like z.
    """
    parameters = (None if p is None else p.to(z.dtype) for p in (*down, *up))
    y = _Adapted.apply(z, *parameters, keep, factor, images)
    assert isinstance(y, Tensor)
    return y


def _branch(latent: Tensor, up: Tensor, bias: Tensor | None, images: Tensor | None) -> Tensor:
    branch = F.linear(F.gelu(latent), up, bias)
    return branch if images is None else branch * images


class _Adapted(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        z: Tensor,
        down: Tensor,
        down_bias: Tensor | None,
        up: Tensor,
        up_bias: Tensor | None,
        keep: Tensor | None,
        factor: float,
        images: Tensor | None,
    ) -> Tensor:
        latent = F.linear(z if keep is None else z * keep * factor, down, down_bias)
        y = z + _branch(latent, up, up_bias, images)
        ctx.save_for_backward(y, latent, down, up, up_bias, keep, images)
        ctx.factor = factor
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        y, latent, down, up, up_bias, keep, images = ctx.saved_tensors
        dy = gradients[0]
        read = y - _branch(latent, up, up_bias, images)  # z
        if keep is not None:
            read = read * keep * ctx.factor
        dbranch = dy if images is None else dy * images
        flat = dbranch.reshape(-1, dbranch.shape[-1])
        dwide, dup = widening_gradients(flat, F.gelu(latent).reshape(-1, latent.shape[-1]), up)
        dlatent = torch.ops.aten.gelu_backward(dwide.reshape(latent.shape), latent)
        dread = dlatent @ down
        dz = dy + (dread if keep is None else dread * keep * ctx.factor)
        narrow = dlatent.reshape(-1, dlatent.shape[-1])
        ddown = narrow.t() @ read.reshape(-1, read.shape[-1])
        biases = ctx.needs_input_grad[2], ctx.needs_input_grad[4]
        return (
            dz,
            ddown,
            narrow.sum(0) if biases[0] else None,
            dup,
            flat.sum(0) if biases[1] else None,
            None,
            None,
            None,
        )
