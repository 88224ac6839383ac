"""Named points inside an attention module, where methods put layers.

`x, context -> qkv -> [attn.watch](q, k) -> [attn.kv], k and v -> softmax over [attn.keys] -> out`

| point | layer | called with | gives |
|---|---|---|---|
| `attn.context` | further tokens as the attention's input sees them | x | (1 or B, n, D) |
| `attn.kv` | further keys and values, used as they are | x | two tensors (1 or B, H, n, d) |
| `attn.keys` | which tokens may be attended to | x | (B, N), boolean |
| `attn.watch` | reads, changes nothing | q, k, scale | nothing |

x is (B, N, D), q and k (B, H, N, d) of the N tokens themselves. Rows of `attn.context`, and those a block's point
`context` hands over (with what is added to their scores, `context_bias`), pass through the very operators that make
k and v, so every edit of these acts on them; they are attended to and never ask. What is further stands in front of the
tokens' own keys and has no position.
Where nothing is further, q, k and v stay views of one qkv tensor; where something is, it is written in front of that
tensor, so that autograd keeps one storage all the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from timm.layers.attention import Attention
from torch import Tensor, nn
from torch.nn import functional as F

from vitune.surgery.points._base import Points, WithPoints

MANY_ROWS = 16
ATTENTION_POINTS = ("attn.context", "attn.kv", "attn.keys", "attn.watch")


class AttentionWithPoints(WithPoints):
    """Base of the attention forward passes with points.

    They take `context`, (1 or B, n, D), and `context_bias`, (n,), as keywords.
    """

    points = ATTENTION_POINTS


class TimmAttentionWithPoints(AttentionWithPoints):
    """timm's `Attention`."""

    def forward(
        self: Any,
        x: Tensor,
        *args: Any,
        context: Tensor | None = None,
        context_bias: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """(B, N, D) to (B, N, D); further arguments are those of timm: `attn_mask`, `is_causal`."""
        p: Points = self.vitune.points
        if context is None and p.empty:
            return super().forward(x, *args, **kwargs)
        masks = dict(zip(("attn_mask", "is_causal"), args, strict=False)) | kwargs
        batch, tokens, _ = x.shape
        heads, width = self.num_heads, self.head_dim
        gate, norm = getattr(self, "gate", None), getattr(self, "norm", None)  # not in every release of timm
        opening = None if gate is None else gate(x).sigmoid()
        if context is not None and _once(p, x, context):
            qkv = _joined(self.qkv, x, context)
        else:
            qkv = self.qkv(with_context(p, x, context))
        given = qkv.shape[1]
        qkv = qkv.reshape(batch, given, 3, heads, width)
        pairs = [layer(x) for layer in p.at("attn.kv").values()]
        plain = isinstance(self.q_norm, nn.Identity) and isinstance(self.k_norm, nn.Identity)
        own = qkv[:, -tokens:]
        if pairs and plain:
            qkv, pairs = _write_in_front(qkv, pairs), []
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        q, k = self.q_norm(q[:, :, -tokens:]), self.k_norm(k)
        if len(p.at("attn.watch")):
            watched = k[:, :, -tokens:] if plain else self.k_norm(own[:, :, 1].transpose(1, 2))
            watch(p, q, watched, self.scale)
        k, v = in_front(k, v, pairs)
        mask, causal = mask_for(p, x, k.shape[2] - tokens, **masks)
        mask = with_bias(mask, context_bias, k.shape[2] - given, k.shape[2])
        y = attend(self, q, k, v, mask, causal).transpose(1, 2).reshape(batch, tokens, -1)
        y = y if norm is None else norm(y)
        y = y if opening is None else y * opening
        return self.proj_drop(self.proj(y))


def _once(points: Points, x: Tensor, context: Tensor) -> bool:
    """Whether to project the rows of `context`, the same for all images, once instead of once for each.

    In inference, where there are enough of them to pay for writing what is projected into one tensor.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or len(points.at("attn.context")):
        return False
    return context.shape[0] == 1 and x.shape[0] > 1 and context.shape[1] >= MANY_ROWS


def _joined(layer: nn.Module, x: Tensor, context: Tensor) -> Tensor:
    """What a layer makes of rows (1, n, D) and tokens (B, N, D), in one tensor (B, n + N, ...)."""
    tokens = layer(x)
    return torch.cat([*_alike([layer(context.to(x.dtype))], tokens), tokens], dim=1)


def attend(module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """Attention of q (B, H, N, d) to k and v (B, H, M, d), as the timm module does it, fused or not."""
    if mask is not None and mask.is_floating_point():
        mask = mask.to(q.dtype)
    if module.fused_attn:
        drop = module.attn_drop.p if module.training else 0.0
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=drop, is_causal=causal)
    scores = (q * module.scale) @ k.transpose(-2, -1)
    if causal:
        n, m = scores.shape[-2:]
        mask = torch.ones(n, m, dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    return module.attn_drop(scores.softmax(dim=-1)) @ v


def with_context(points: Points, x: Tensor, context: Tensor | None) -> Tensor:
    """The tokens x (B, N, D) with the rows of the points `context` in front, (B, n + N, D)."""
    rows = [] if context is None else [context]
    rows += [layer(x) for layer in points.at("attn.context").values()]
    return torch.cat([*_alike(rows, x), x], dim=1) if rows else x


def in_front(k: Tensor, v: Tensor, pairs: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Keys and values with further ones, each (1 or B, H, n, d), in front."""
    pairs = list(pairs)
    if not pairs:
        return k, v
    further_k, further_v = zip(*pairs, strict=True)
    return torch.cat([*_alike(further_k, k), k], dim=2), torch.cat([*_alike(further_v, v), v], dim=2)


def watch(points: Points, q: Tensor, k: Tensor, scale: float) -> None:
    """Show q and k (B, H, N, d) of the tokens themselves to the layers that watch."""
    for layer in points.at("attn.watch").values():
        layer(q, k, scale)


def mask_for(
    points: Points, x: Tensor, further: int, attn_mask: Tensor | None = None, is_causal: bool = False
) -> tuple[Tensor | None, bool]:
    """The attention mask and causal flag with the points in force.

    Args:
        points: The points; those that say which keys may be attended to join the mask.
        x: The attention's input (B, N, D).
        further: Number of keys in front of the tokens' own; all may be attended to.
        attn_mask: The caller's mask, broadcastable to (B, H, N, N): boolean (True may be attended to) or added.
        is_causal: Whether a token attends to itself and those before it alone.

    Returns:
        The mask, broadcastable to (B, H, N, further + N), or None; and the causal flag where it can stay one.
    """
    allowed: Tensor | None = None
    for layer in points.at("attn.keys").values():
        keys = layer(x)[:, None, None, :]
        allowed = keys if allowed is None else allowed & keys
    if is_causal and (further or allowed is not None):
        causal = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()
        allowed = causal if allowed is None else allowed & causal
        is_causal = False
    if attn_mask is None:
        mask = allowed
    elif allowed is None:
        mask = attn_mask
    elif attn_mask.dtype == torch.bool:
        mask = attn_mask & allowed
    else:
        mask = attn_mask.masked_fill(~allowed, float("-inf"))
    if mask is not None and further:
        free = mask.new_zeros(1) if mask.is_floating_point() else mask.new_ones(1)
        mask = torch.cat([free.expand(*mask.shape[:-1], further), mask], dim=-1)
    return mask, is_causal


def with_bias(mask: Tensor | None, bias: Tensor | None, before: int, keys: int) -> Tensor | None:
    """A mask with what is added to the scores of some keys.

    Args:
        mask: As `mask_for` gives it.
        bias: (n,), or None.
        before: Number of keys in front of those n.
        keys: Number M of all keys.

    Returns:
        The mask, added to the scores: broadcastable to (B, H, N, M); or as it was where there is no bias.
    """
    if bias is None:
        return mask
    row = F.pad(bias, (before, keys - before - len(bias)))[None, None, None]
    if mask is None:
        return row
    if mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, dtype=row.dtype, device=row.device).masked_fill(~mask, -torch.inf)
    return mask + row


def _alike(rows: Iterable[Tensor], like: Tensor) -> list[Tensor]:
    """Rows for every image of a batch, in the batch's type."""
    return [row.to(like.dtype).expand(like.shape[0], *row.shape[1:]) for row in rows]


def _write_in_front(qkv: Tensor, pairs: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """One tensor (B, n + N, 3, H, d) with further keys and values in front; nobody reads the queries beside them."""
    rows = [torch.stack([torch.zeros_like(k), k, v], dim=1).permute(0, 3, 1, 2, 4) for k, v in pairs]
    return torch.cat([*_alike(rows, qkv), qkv], dim=1)


# Attention class of timm -> forward pass.
FORWARDS = {Attention: TimmAttentionWithPoints}
