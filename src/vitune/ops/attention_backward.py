"""Gradients of half-precision attention on a CPU, computed in float32: quicker and closer.

In bfloat16 the fused kernel of torch's CPU backend spends, on small heads, several times what its float32 twin takes,
and rounds more often. Here a few images at a time are widened, so that what is widened stays in the cache. What
autograd keeps between the passes is unchanged, and so is everything on other devices and in other precisions.

The fused kernel reads attention's output O only for the row sums of O * dO, which equal those of P * dP for the
weights P. Where O was not kept, these are computed in place of O (`without_output`).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from vitune.ops.deferred import GOES_WITHOUT, Deferred

PIECE = 1 << 16  # numbers of a tensor that are widened at a time: a quarter of a MiB in float32
WEIGHTS = 1 << 17  # attention weights that are there at a time
MOST_WEIGHTS = 1 << 21  # of one image, from where on the fused kernel, which never has them all, is better

BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default
FORWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
HALVES = (torch.bfloat16, torch.float16)


def float32_attention_gradients(device: torch.device) -> AbstractContextManager[Any]:
    """A context for a backward pass in which fused attention of half precision is differentiated in float32.

    Args:
        device: Where the model computes; elsewhere than on a CPU the context does nothing.
    """
    return _Float32Gradients() if device.type == "cpu" else nullcontext()


class _Float32Gradients(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is BACKWARD and args[1].dtype in HALVES and not isinstance(args[4], Deferred):
            return _in_pieces(*args, **(kwargs or {}))
        return func(*args, **kwargs) if kwargs else func(*args)


def _in_pieces(
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    logsumexp: Tensor,
    dropout: float,
    causal: bool,
    *,
    attn_mask: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query (B, H, N, D), key and value (B, H, M, D); `attn_mask` is (N, M) or (B or 1, H or 1, N, M)."""
    results = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
    images = max(1, PIECE * len(query) // max(1, query.numel(), key.numel()))
    for start in range(0, len(query), images):
        part = slice(start, start + images)
        mask = attn_mask
        if mask is not None and mask.dim() == 4 and len(mask) > 1:
            mask = mask[part]
        found = BACKWARD(
            *(tensor[part].float() for tensor in (gradient, query, key, value, output)),
            logsumexp[part],
            dropout,
            causal,
            attn_mask=None if mask is None else mask.float(),
            scale=scale,
        )
        for result, piece in zip(results, found, strict=True):
            result[part] = piece
    return results


def _gradients_with_output_deferred(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Those of attention whose output, the fifth argument, may not be there."""
    gradient, query, key, value, output, logsumexp, dropout, causal = args
    without = can_go_without_output(query, key, dropout, causal, kwargs.get("attn_mask"))
    if without and not output.promise.made:
        output.promise.skip()
        return without_output(gradient, query, key, value, logsumexp, kwargs.get("scale"))
    return _in_pieces(gradient, query, key, value, output.promise.make(), *args[5:], **kwargs)


GOES_WITHOUT[BACKWARD] = 4, _gradients_with_output_deferred


def can_go_without_output(
    query: Tensor, key: Tensor, dropout: float, causal: bool, attn_mask: Tensor | None
) -> bool:
    """Whether `without_output` computes these gradients.

    Args:
        query: (B, H, N, D).
        key: (B, H, M, D).
        dropout: Rate of the weights that were left out.
        causal: Whether tokens saw earlier ones only.
        attn_mask: What was added to the scores.
    """
    weights = query.shape[1] * query.shape[2] * key.shape[2]
    plain = attn_mask is None and not causal and not dropout
    return plain and query.dtype in HALVES and weights <= MOST_WEIGHTS


def without_output(
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    logsumexp: Tensor,
    scale: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query (B, H, N, D), key and value (B, H, M, D), from that of the output (B, H, N, D).

    With S the scores, P = exp(S - logsumexp) and dP = dO V^T: dS = P * (dP - rowsum(P * dP)); Dao et al. 2022
    (FlashAttention), appendix B.2.

    Args:
        gradient: Of the output.
        query: As it was attended with.
        key: As it was attended to.
        value: As it was mixed.
        logsumexp: Of the scores, (B, H, N) in float32.
        scale: Of the scores; None: D ** -0.5.
    """
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    results = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
    images = max(1, WEIGHTS // max(1, query.shape[1] * query.shape[2] * key.shape[2]))
    for start in range(0, len(query), images):
        part = slice(start, start + images)
        d_output, q, k, v = (tensor[part].float() for tensor in (gradient, query, key, value))
        weights = (q @ k.mT).mul_(factor).sub_(logsumexp[part].unsqueeze(-1)).exp_()
        results[2][part] = weights.mT @ d_output
        d_scores = d_output @ v.mT
        d_scores.sub_(torch.linalg.vecdot(d_scores, weights).unsqueeze(-1)).mul_(weights).mul_(factor)
        results[0][part] = d_scores @ k
        results[1][part] = d_scores.mT @ q
    return results
