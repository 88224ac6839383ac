"""The Hierarchical Side Network: a convolutional stem, four stages of side blocks, and the bridge that feeds them.

Shapes: B images, N patch tokens, M meta tokens per backbone block, D width of the backbone, c_s width of stage s.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BLOCK_EPS = 1e-6  # LayerNorms of the side blocks and behind each stage
BRIDGE_EPS = 1e-5  # LayerNorms behind convolutions and of the meta tokens
HEAD_NORM_EPS = 1e-6


class Stem(nn.Module):
    """The image at stride 4: two convolutions of stride 2 with BatchNorm and ReLU between them, LayerNorm."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 2, stride=2)
        self.norm = nn.LayerNorm(width, eps=BRIDGE_EPS)

    def forward(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Images (B, 3, height, width) to tokens (B, H * W, c_1) and (H, W)."""
        return _tokens(self.conv2(F.relu(self.bn(self.conv1(images)))), self.norm)


class Transition(nn.Module):
    """From one stage's map to half its size."""

    def __init__(self, width_before: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(width_before, width, 3, stride=2, padding=1)
        self.norm = nn.LayerNorm(width, eps=BRIDGE_EPS)

    def forward(self, feature_map: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """A map (B, c_{s-1}, H, W) to tokens (B, ceil(H/2) * ceil(W/2), c_s) and their grid."""
        return _tokens(self.proj(feature_map), self.norm)


def _tokens(feature_map: Tensor, norm: nn.Module) -> tuple[Tensor, tuple[int, int]]:
    grid = (feature_map.shape[-2], feature_map.shape[-1])
    return norm(feature_map.flatten(2).transpose(1, 2)), grid


class CrossAttention(nn.Module):
    """Side tokens ask; the few bridged tokens of one backbone block answer."""

    def __init__(self, width: int, num_heads: int, qkv_bias: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(width, width, bias=qkv_bias)
        self.k = nn.Linear(width, width, bias=qkv_bias)
        self.v = nn.Linear(width, width, bias=qkv_bias)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        """x (B, tokens, c) and memory (B, M + 1, c) to (B, tokens, c)."""
        q, k, v = (self._heads(y) for y in (self.q(x), self.k(memory), self.v(memory)))
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.proj(mixed.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class SideMLP(nn.Module):
    """Two linear layers with an exact GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., c) to (..., c)."""
        return self.fc2(F.gelu(self.fc1(x)))


class DropPath(nn.Module):
    """Leaves a branch out for a share of the images, in training."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) to (B, ...)."""
        if not self.rate or not self.training:
            return x
        kept = torch.full((x.shape[0], *[1] * (x.dim() - 1)), 1 - self.rate, device=x.device, dtype=x.dtype)
        return x * kept.bernoulli() / (1 - self.rate)


class SideBlock(nn.Module):
    """Cross-attention to what the backbone block tells, injection of its patch map, MLP."""

    def __init__(
        self, width: int, num_heads: int, mlp_ratio: float, qkv_bias: bool, drop_path: float
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=BLOCK_EPS)
        self.attn = CrossAttention(width, num_heads, qkv_bias)
        self.norm2 = nn.LayerNorm(width, eps=BLOCK_EPS)
        self.mlp = SideMLP(width, int(width * mlp_ratio))
        self.drop_path = DropPath(drop_path)

    def forward(self, y: Tensor, memory: Tensor, injected: Tensor) -> Tensor:
        """y and injected (B, H * W, c), memory (B, M + 1, c), to (B, H * W, c)."""
        y = y + self.drop_path(self.attn(self.norm1(y), memory)) + injected
        return y + self.drop_path(self.mlp(self.norm2(y)))


class SideNetwork(nn.Module):
    """Everything new of HST but its classifier.

    Args:
        width: Width D of the backbone.
        channels: Channels of the images.
        widths: c_s of each stage.
        num_heads: Heads of each stage.
        depths: Backbone blocks that each stage owns, in order.
        meta_tokens: M.
        mlp_ratio: Of the side blocks.
        qkv_bias: Whether q, k and v of the side blocks have biases.
        drop_path: Rate of the last side block; it rises linearly from 0.
        head_affine: Whether the BatchNorm in front of the classifier has weights.
    """

    def __init__(
        self,
        width: int,
        channels: int,
        widths: Sequence[int],
        num_heads: Sequence[int],
        depths: Sequence[int],
        meta_tokens: int,
        mlp_ratio: float,
        qkv_bias: bool,
        drop_path: float,
        head_affine: bool,
    ) -> None:
        super().__init__()
        blocks = sum(depths)
        rates = torch.linspace(0, drop_path, blocks, device="cpu").tolist()
        stage_of = [s for s, depth in enumerate(depths) for _ in range(depth)]
        self.meta = nn.ParameterList(nn.Parameter(torch.empty(1, meta_tokens, width)) for _ in range(blocks))
        self.bridge = nn.ModuleList(nn.Linear(width, c) for c in widths)
        self.meta_norms = nn.ModuleList(nn.LayerNorm(widths[s], eps=BRIDGE_EPS) for s in stage_of)
        self.stem = Stem(channels, widths[0])
        self.transitions = nn.ModuleList(Transition(a, b) for a, b in pairwise(widths))
        self.stages = nn.ModuleList()
        for s, depth in enumerate(depths):
            drops = [rates.pop(0) for _ in range(depth)]
            self.stages.append(
                nn.ModuleList(SideBlock(widths[s], num_heads[s], mlp_ratio, qkv_bias, p) for p in drops)
            )
        self.norms = nn.ModuleList(nn.LayerNorm(c, eps=BLOCK_EPS) for c in widths)
        self.head_norm = nn.BatchNorm1d(widths[-1], eps=HEAD_NORM_EPS, affine=head_affine)
        self._initialise(meta_tokens, width)

    def _initialise(self, meta_tokens: int, width: int) -> None:
        """The card's section 3: Xavier for the meta tokens, truncated normal for linears, fan-out for convolutions."""
        bound = math.sqrt(6 / (meta_tokens * width + width))
        for tokens in self.meta:
            nn.init.uniform_(tokens, -bound, bound)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02, a=-2.0, b=2.0)
            elif isinstance(module, nn.Conv2d):
                fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
                nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
            else:
                continue
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def enter(self, k: int, tokens: Tensor) -> Tensor:
        """Put the meta tokens of backbone block k in front: (B, n, D) to (B, M + n, D)."""
        return torch.cat([self.meta[k].expand(tokens.shape[0], -1, -1), tokens], dim=1)

    def first(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """The first stage's tokens (B, H * W, c_1) and their grid, from the images."""
        return self.stem(images)

    def next(self, s: int, feature_map: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """The tokens that stage s > 0 starts from, of the map of the stage before."""
        return self.transitions[s - 1](feature_map)

    def side_step(
        self,
        place: tuple[int, int, int],
        y: Tensor,
        grid: tuple[int, int],
        meta: Tensor,
        patches: tuple[Tensor, int, tuple[int, int]],
    ) -> Tensor:
        """One side block.

        The bridge runs at the backbone's resolution and its few channels are resized, which is the same as resizing
        all D channels first, since the weights of bilinear interpolation sum to 1.

        Args:
            place: (stage, side block within it, backbone block).
            y: Side tokens (B, H * W, c_s).
            grid: (H, W).
            meta: Meta tokens behind the backbone block, (B, M, D).
            patches: A contiguous sequence (B, front + N, D) that ends with the patch tokens behind it, `front`, and the
                grid of the patches. The bridge runs on the whole sequence, so that nothing is copied.
        """
        s, j, k = place
        bridge = self.bridge[s]
        bridged = self.meta_norms[k](bridge(meta))
        sequence, front, patch_grid = patches
        injected = bridge(sequence)[:, front:].transpose(1, 2).unflatten(2, patch_grid)
        injected = F.interpolate(injected, size=grid, mode="bilinear", align_corners=False)
        injected = injected.flatten(2).transpose(1, 2)
        memory = torch.cat([bridged, injected.mean(dim=1, keepdim=True)], dim=1)
        blocks = self.stages[s]
        assert isinstance(blocks, nn.ModuleList)
        return blocks[j](y, memory, injected)

    def leave(self, s: int, y: Tensor, grid: tuple[int, int]) -> Tensor:
        """Stage s's output as a map (B, c_s, H, W)."""
        return self.norms[s](y).transpose(1, 2).unflatten(2, grid)

    def pooled(self, feature_map: Tensor) -> Tensor:
        """What the classifier reads, (B, c_4), of the last stage's map.

        A single image has no batch statistics: the running ones stand in, also in training.
        """
        z = feature_map.flatten(2).mean(dim=2)
        norm = self.head_norm
        if norm.training and z.shape[0] == 1:
            return F.batch_norm(
                z, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps
            )
        return norm(z)
