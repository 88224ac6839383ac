"""Tokens of the residual stream: what a block did to the class token, which patches it looks at, taking and putting."""

from __future__ import annotations

import torch
from torch import Tensor, distributed
from torch._subclasses.fake_tensor import FakeTensor


def class_token_change(before: Tensor, after: Tensor, *, mean: bool) -> Tensor:
    """Sum of squares of the change of the class token over batch and channels, of the batch of all processes.

    Args:
        before: (B, D).
        after: (B, D).
        mean: Whether to divide by the number of images.

    Returns:
        A scalar in float32.
    """
    delta = (after.float() - before.float()).square().sum()
    images = before.shape[0]
    together = distributed.is_available() and distributed.is_initialized()
    if together and distributed.get_world_size() > 1 and not isinstance(delta, FakeTensor):
        both = torch.stack([delta, delta.new_tensor(images)])
        distributed.all_reduce(both)
        return both[0] / both[1] if mean else both[0]
    return delta / images if mean else delta


def class_token_scores(q: Tensor, k: Tensor, scale: float) -> Tensor:
    """softmax(s q k^T) of one query, a mean over heads.

    Args:
        q: (B, H, d), of the class token.
        k: (B, H, N, d).
        scale: s.

    Returns:
        (B, N) in float32.
    """
    scores = (q * scale)[:, :, None] @ k.transpose(-2, -1)
    return scores.float().softmax(-1).squeeze(2).mean(1)


def take(x: Tensor, rows: Tensor, prefix: int) -> Tensor:
    """The first tokens and some of the patch tokens behind them.

    One index per token is kept for the backward, not one per number.

    Args:
        x: (B, N, D).
        rows: (B, k), places among the patch tokens.
        prefix: Tokens in front of the patch tokens, all of which are taken.

    Returns:
        (B, prefix + k, D).
    """
    flat = x.flatten(0, 1).index_select(0, _flat(rows, prefix, x.shape[1]))
    return flat.view(x.shape[0], -1, x.shape[2])


def put_back(x: Tensor, taken: Tensor, rows: Tensor, prefix: int) -> Tensor:
    """x (B, N, D) with the tokens that `take` took replaced by others, (B, prefix + k, D)."""
    flat = _flat(rows, prefix, x.shape[1])
    return x.flatten(0, 1).index_copy(0, flat, taken.flatten(0, 1).to(x.dtype)).view_as(x)


def _flat(rows: Tensor, prefix: int, tokens: int) -> Tensor:
    """Places in the flattened batch, (B (prefix + k),)."""
    front = torch.arange(prefix, device=rows.device).expand(rows.shape[0], -1)
    start = torch.arange(rows.shape[0], device=rows.device)[:, None] * tokens
    return (torch.cat([front, rows + prefix], 1) + start).flatten()
