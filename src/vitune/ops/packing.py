"""Packing numbers of 1, 2, 4 or 8 bits into bytes: the first number in the lowest bits."""

from __future__ import annotations

import torch
from torch import Tensor


def packed_bytes(count: int, bits: int) -> int:
    """Bytes that so many numbers take; the last byte may be partly filled."""
    return -(-count * bits // 8)


def pack(numbers: Tensor, bits: int) -> Tensor:
    """Pack numbers below 2^bits.

    Args:
        numbers: Any shape, read row by row, uint8.
        bits: 1, 2, 4 or 8.

    Returns:
        uint8 bytes, (packed_bytes,); the rest of the last one is 0.
    """
    per_byte = 8 // bits
    flat = numbers.reshape(-1)
    rows = torch.nn.functional.pad(flat, (0, -len(flat) % per_byte)).view(-1, per_byte)
    # Disjoint bits: their sum is their union, and stays below 256.
    return (rows << _shifts(bits, rows.device)).sum(1, dtype=torch.uint8)


def unpack(data: Tensor, bits: int, count: int) -> Tensor:
    """The inverse of `pack`.

    Args:
        data: uint8 bytes, (packed_bytes,).
        bits: 1, 2, 4 or 8.
        count: How many numbers.

    Returns:
        The numbers, (count,) uint8.
    """
    spread = (data[:, None] >> _shifts(bits, data.device)) & (2**bits - 1)
    return spread.reshape(-1)[:count]


def _shifts(bits: int, device: torch.device) -> Tensor:
    return torch.arange(0, 8, bits, dtype=torch.uint8, device=device)
