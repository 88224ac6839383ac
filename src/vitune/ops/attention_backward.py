"""Gradients of half-precision attention on a CPU, computed in float32: quicker and closer.

In bfloat16 the fused kernel of torch's CPU backend spends, on small heads, several times what its float32 twin takes,
and rounds more often. Here a few images at a time are widened, so that what is widened stays in the cache. What
autograd keeps between the passes is unchanged, and so is everything on other devices and in other precisions.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

PIECE = 1 << 16  # numbers of a tensor that are widened at a time: a quarter of a MiB in float32

_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default
_HALVES = (torch.bfloat16, torch.float16)


def float32_attention_gradients(device: torch.device) -> AbstractContextManager[Any]:
    """A context for a backward pass in which fused attention of half precision is differentiated in float32.

    Args:
        device: Where the model computes; elsewhere than on a CPU the context does nothing.
    """
    return _Float32Gradients() if device.type == "cpu" else nullcontext()


class _Float32Gradients(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is _BACKWARD and args[1].dtype in _HALVES:
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
        found = _BACKWARD(
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
