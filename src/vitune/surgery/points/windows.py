"""Window attention of timm's Swin with points, and with rows that belong to no window.

Such rows stand in front of the tokens of every window; position bias and shift mask are 0 for them. `context` rows are
attended to; `asking` rows attend as well, in every window, and what they are told is averaged over the windows of their
image. With `mixed` they are laid out as if windows came image by image for each place, which they do not: a known error
of a reference implementation, in which a batch's images see each other's rows.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.models.swin_transformer import WindowAttention, window_partition, window_reverse
from torch import Tensor
from torch.nn import functional as F

from vitune.surgery.points._base import Points
from vitune.surgery.points.attention import AttentionWithPoints, attend, in_front, with_bias


class WindowAttentionWithPoints(AttentionWithPoints):
    """timm's `WindowAttention`."""

    points = ("attn.context", "attn.kv")

    def forward(
        self: Any,
        x: Tensor,
        mask: Tensor | None = None,
        *,
        context: Tensor | None = None,
        context_bias: Tensor | None = None,
        asking: Tensor | None = None,
        mixed: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Attention within windows.

        Args:
            x: Windows of all images, one image after the other, (B * windows, N, D).
            mask: Of the shift, (windows, N, N), or None.
            context: Rows (1 or B, n, D).
            context_bias: What is added to the scores of these, (n,).
            asking: Rows (B, a, D).
            mixed: Whether asking rows go to the windows in the wrong order.

        Returns:
            As x; with `asking` also what these are told, (B, a, D).
        """
        p: Points = self.vitune.points
        if context is None and asking is None and p.empty:
            return super().forward(x, mask)
        number, tokens, _ = x.shape
        rows = [context, *(layer(x) for layer in p.at("attn.context").values()), asking]
        front = [_per_window(row, number, x.dtype, mixed=mixed) for row in rows if row is not None]
        asks = 0 if asking is None else asking.shape[1]
        joined = torch.cat([*front, x], dim=1)
        qkv = self.qkv(joined).reshape(*joined.shape[:2], 3, self.num_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        k, v = in_front(k, v, [layer(x) for layer in p.at("attn.kv").values()])
        bias = self._get_rel_pos_bias()
        if mask is not None:
            windows = mask.shape[0]
            bias = bias + mask[:, None].repeat(number // windows, 1, 1, 1)
        bias = F.pad(bias, (k.shape[2] - tokens, 0, asks, 0))
        bias = with_bias(bias, context_bias, k.shape[2] - joined.shape[1], k.shape[2])
        y = attend(self, q[:, :, -(asks + tokens) :], k, v, bias, causal=False)
        y = self.proj_drop(self.proj(y.transpose(1, 2).reshape(number, asks + tokens, -1)))
        if asking is None:
            return y
        images = asking.shape[0]
        told = y[:, :asks]
        told = told.unflatten(0, (-1, images)).mean(0) if mixed else told.unflatten(0, (images, -1)).mean(1)
        return y[:, asks:], told


def window_attention(
    block: Any, x: Tensor, further: dict[str, Tensor], asking: Tensor | None, mixed: bool
) -> tuple[Tensor, Tensor | None]:
    """The attention of a Swin block, shift and windows included, with further rows.

    Args:
        block: timm's `SwinTransformerBlock`.
        x: What its attention sees, (B, height, width, D).
        further: Rows (1 or B, n, D) and what is added to their scores, as keyword arguments of the attention.
        asking: Rows (B, a, D).
        mixed: Whether asking rows go to the windows in the wrong order.

    Returns:
        As x, and what the asking rows are told, (B, a, D).
    """
    _, height, width, channels = x.shape
    (window_height, window_width), shift = block.window_size, block.shift_size
    y = torch.roll(x, (-shift[0], -shift[1]), (1, 2)) if any(shift) else x
    y = F.pad(y, (0, 0, 0, -width % window_width, 0, -height % window_height))
    padded = y.shape[1:3]
    windows = window_partition(y, block.window_size).view(-1, block.window_area, channels)
    mask = block.get_attn_mask(y) if getattr(block, "dynamic_mask", False) else block.attn_mask
    found = block.attn(windows, mask=mask, **further, asking=asking, mixed=mixed)
    attended, told = found if asking is not None else (found, None)
    y = attended.view(-1, window_height, window_width, channels)
    y = window_reverse(y, block.window_size, *padded)[:, :height, :width].contiguous()
    return (torch.roll(y, shift, (1, 2)) if any(shift) else y), told


def _per_window(rows: Tensor, windows: int, dtype: torch.dtype, *, mixed: bool) -> Tensor:
    """Rows (1 or B, n, D) for every window (B * windows, n, D): each image its own, unless they are mixed."""
    rows = rows.to(dtype)
    if rows.shape[0] == 1:
        return rows.expand(windows, -1, -1)
    if mixed:
        return rows.repeat(windows // rows.shape[0], 1, 1)
    return rows.repeat_interleave(windows // rows.shape[0], dim=0)


FORWARDS = {WindowAttention: WindowAttentionWithPoints}
