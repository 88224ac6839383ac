"""The mixture of adapters: bottlenecks whose weights are mixed for every image.

DyT, section 3.4 and eq. 7; the authors published no code. `p = mean over all tokens of h`, `a = rho(p Wr^T)`,
`Wd* = sum_i a_i Wd_i`, `Wu* = sum_i a_i Wu_i`, biases likewise, then the plain adapter with these.

Choices of ours where the paper says nothing: rho is a softmax (or a sigmoid, as in CondConv, which the paper cites);
biases are mixed with the same weights; the router has no bias; the mean includes prefix tokens. The weights are mixed,
not the outputs, which the paper calls equivalent and which is not, because of the ReLU. In a video every frame counts
as an image.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitune.methods.adaptformer import LAYERNORM_EPS, AdaptFormer


class MixtureOfBottlenecks(nn.Module):
    """Several bottlenecks (E experts, width h) mixed into one for every image, by the mean of its tokens."""

    needs_all_tokens = True

    def __init__(self, width: int, config: AdaptFormer, experts: int, routing: str) -> None:
        super().__init__()
        inside = config.bottleneck
        self.routing, self.dropout = routing, config.dropout
        self.norm_in = nn.LayerNorm(width, eps=LAYERNORM_EPS) if config.layernorm == "in" else None
        self.norm_out = nn.LayerNorm(width, eps=LAYERNORM_EPS) if config.layernorm == "out" else None
        self.router = nn.Linear(width, experts, bias=False)
        nn.init.trunc_normal_(self.router.weight, std=0.02)
        # Every expert starts as a plain adapter does, with a draw of its own.
        bound = 1 / math.sqrt(width)
        self.down_weight = nn.Parameter(torch.empty(experts, inside, width).uniform_(-bound, bound))
        self.down_bias = nn.Parameter(torch.zeros(experts, inside))
        self.up_weight = nn.Parameter(torch.zeros(experts, width, inside))
        self.up_bias = nn.Parameter(torch.zeros(experts, width))
        self.scale = nn.Parameter(torch.ones(1)) if config.scale == "learnable" else float(config.scale)

    def forward(self, stream: Tensor) -> Tensor:
        """(B, ..., D) to the same shape."""
        h = stream.flatten(1, -2)
        share = self.shares(h)
        y = h if self.norm_in is None else self.norm_in(h)
        down = torch.baddbmm(
            _mixed(share, self.down_bias).unsqueeze(1), y, _mixed(share, self.down_weight).mT
        )
        y = F.dropout(F.relu(down), self.dropout, self.training)
        y = torch.baddbmm(_mixed(share, self.up_bias).unsqueeze(1), y, _mixed(share, self.up_weight).mT)
        y = y * self.scale
        if self.norm_out is not None:
            y = self.norm_out(y)
        return y.view(stream.shape)

    def shares(self, h: Tensor) -> Tensor:
        """Weights of the experts (B, E) for tokens (B, N, D)."""
        scores = self.router(h.mean(1))
        return scores.softmax(-1) if self.routing == "softmax" else scores.sigmoid()


def _mixed(shares: Tensor, experts: Tensor) -> Tensor:
    """Weighted sums (B, ...) of the experts' tensors (E, ...)."""
    return (shares @ experts.flatten(1)).unflatten(1, experts.shape[1:])
