"""Video with an image backbone: frames one by one, then one query that attends to all tokens of all frames.

DyT, section 4.3 (arXiv:2403.11808); Dynamic-Tuning @ d1744f0, `models/model_video.py`. Clips (B, 3, T, H, W) are folded
into (B T, 3, H, W); gates and adapters act per frame. After the final norm the tokens of a clip, class tokens included,
are one sequence (B, T S, D). `q = LN(query) Wq^T + bq`, `k = LN(tokens) Wk^T`, `v = LN(tokens) Wv^T + bv` with three
norms; attention; a projection; no residual and no MLP; then the head. Nothing tells the order of the frames.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from vitune.tuned import Tuned

NORM_EPS = 1e-6


class AttentivePooler(nn.Module):
    """One learned query that attends to tokens. It starts as a uniform mean of the values."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Parameter(torch.zeros(1, 1, width))
        self.norm_q, self.norm_k, self.norm_v = (nn.LayerNorm(width, eps=NORM_EPS) for _ in range(3))
        self.q, self.v, self.out = (nn.Linear(width, width) for _ in range(3))
        self.k = nn.Linear(width, width, bias=False)  # a bias of keys would change nothing
        for linear in (self.q, self.k, self.v, self.out):
            nn.init.trunc_normal_(linear.weight, std=0.02)
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N, D) to one vector (B, D)."""
        batch = len(tokens)

        def heads(x: Tensor) -> Tensor:
            return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

        q = heads(self.q(self.norm_q(self.query.expand(batch, -1, -1))))
        k, v = heads(self.k(self.norm_k(tokens))), heads(self.v(self.norm_v(tokens)))
        pooled = F.scaled_dot_product_attention(q, k, v)
        return self.out(pooled.transpose(1, 2).flatten(2)).squeeze(1)


class VideoClassifier(nn.Module):
    """A tuned image model on clips: the pooler, then the model's own head.

    Trains what the image model trains and the pooler. `tuned.policies` train it as they train the image model.

    Args:
        tuned: An image model with a linear head.
    """

    def __init__(self, tuned: Tuned) -> None:
        super().__init__()
        self.backbone: Any = tuned.model
        self.pooler = AttentivePooler(tuned.anatomy.width, tuned.anatomy.blocks[0].num_heads)
        self._head = tuned.anatomy.head[0]

    def forward(self, clips: Tensor) -> Tensor:
        """Clips (B, 3, T, height, width) to logits (B, C)."""
        frames = clips.shape[2]
        tokens = self._tokens(clips.transpose(1, 2).flatten(0, 1))
        pooled = self.pooler(tokens.reshape(len(clips), frames * tokens.shape[1], -1))
        return self.backbone.get_submodule(self._head)(pooled)

    def _tokens(self, images: Tensor) -> Tensor:
        """Tokens (B, S, D) after the final norm."""
        if hasattr(self.backbone, "forward_features"):
            return self.backbone.forward_features(images)
        return self.backbone.base_model(images).last_hidden_state


def fused_views(logits: Tensor, views: int) -> Tensor:
    """The mean over the views of a clip of logits (B views, C), views of a clip in a row."""
    return logits.unflatten(0, (-1, views)).mean(1)
