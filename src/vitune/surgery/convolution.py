"""A convolution of the backbone run with another kernel: its own geometry, padding included."""

from __future__ import annotations

from typing import Any

from timm.layers.conv2d_same import Conv2dSame
from timm.layers.padding import pad_same
from torch import Tensor, nn
from torch.nn import functional as F

from vitune.surgery.edits import parts_of


def runs_its_kernel(module: nn.Module) -> bool:
    """Whether a module is a 2-D convolution with its weight as it is stored.

    Others (weight standardisation, mixtures of kernels) compute a kernel in each forward pass, so that what is written
    into the weight is not what the convolution runs with.
    """
    return parts_of(module)[0].forward in (nn.Conv2d.forward, Conv2dSame.forward)


def convolve(module: nn.Module, x: Tensor, kernel: Tensor) -> Tensor:
    """What a convolution gives with another kernel and without bias.

    Args:
        module: A convolution of which `runs_its_kernel` holds; stride, padding, dilation and groups are its own.
        x: (B, C_in, height, width).
        kernel: (C, C_in / groups, kernel height, kernel width), of the size of its own.

    Returns:
        (B, C, height', width').
    """
    layer: Any = module
    if isinstance(module, Conv2dSame):  # as much padding as the size of x needs
        x = pad_same(x, kernel.shape[-2:], layer.stride, layer.dilation)  # type: ignore[arg-type]
        return F.conv2d(x, kernel, None, layer.stride, 0, layer.dilation, layer.groups)
    return layer._conv_forward(x, kernel, None)
