"""The layers of LoRA on a convolution.

The kernel (C_out, C_in / groups, h, w) is read as a matrix of C_out rows, and s B A, B (C_out, R), A (R, C_in / groups
* h * w), is its update. Without groups that is a convolution to R channels with the geometry of the layer, and a 1x1
convolution from these: what the usual LoRA library computes. With groups the channels of all groups share A, also in a
depthwise convolution, where A holds R filters that each channel mixes; there the update is made as a kernel.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn import functional as F

from vitune.methods.lora.layers import Factors, LowRankEdit
from vitune.surgery import convolve

if TYPE_CHECKING:
    from vitune.methods.lora import LoRA


class ConvLowRank(nn.Module):
    """The update of one convolution."""

    def __init__(self, kernel: tuple[int, ...], groups: int, name: str, config: LoRA) -> None:
        super().__init__()
        self.kernel, self.groups = kernel, groups
        self.names, self.rows = [name], [None]
        self.factor, self.dropout = config.factor, config.dropout
        self.drop_input = config.dropout_at == "input"
        self.add_module(name, Factors(math.prod(kernel[1:]), kernel[0], config.rank, True))

    def down(self) -> Tensor:
        """A: (R, C_in / groups * h * w)."""
        return getattr(self, self.names[0]).down

    def up(self) -> Tensor:
        """B: (C_out, R)."""
        return getattr(self, self.names[0]).up

    def forward(self, convolution: nn.Module, x: Tensor) -> Tensor:
        """What to add to the output of the convolution: x (B, C_in, H, W) to (B, C_out, H', W')."""
        if self.drop_input:
            x = F.dropout(x, self.dropout, self.training)
        if self.groups > 1:
            return convolve(convolution, x, self.delta())
        latent = convolve(convolution, x, self.down().unflatten(1, self.kernel[1:]))
        if not self.drop_input:
            latent = F.dropout(latent, self.dropout, self.training)
        if self.factor != 1.0:
            latent = latent * self.factor
        return F.conv2d(latent, self.up()[:, :, None, None])

    def delta(self) -> Tensor:
        """s B A as a kernel, in the precision of the factors: (C_out, C_in / groups, h, w)."""
        return (self.factor * (self.up() @ self.down())).view(self.kernel)


class ConvLowRankEdit(LowRankEdit):
    """Adds the update to the output of a convolution; folds as that of a linear layer does."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) to (B, C_out, H', W')."""
        return super(LowRankEdit, self).forward(x) + self.vitune.lora(self, x)

    @staticmethod
    def fold(module: Any, layer: nn.Module) -> None:
        """W + s B A."""
        assert isinstance(layer, ConvLowRank)
        weight = module.weight
        weight.copy_(weight.float() + layer.float().delta())
