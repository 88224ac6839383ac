"""Rounded matrices as bytes: level numbers packed row by row, then mean and std as little-endian float32."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vitune.ops.codebook import BookName, codebook
from vitune.ops.low_bit import Code, decode, encode
from vitune.ops.packing import pack, packed_bytes, unpack

STATISTICS_BYTES = 8  # mean and std


@dataclass(frozen=True)
class Stored:
    """A matrix as a file holds it.

    Attributes:
        code: Level numbers, mean and std.
        bits: Of each number.
        book: Name of the codebook.
    """

    code: Code
    bits: int
    book: BookName

    @classmethod
    def of(cls, matrix: Tensor, bits: int, book: BookName) -> Stored:
        """Round a matrix."""
        return cls(encode(matrix, codebook(bits, book).thresholds.to(matrix.device)), bits, book)

    def decode(self) -> Tensor:
        """The matrix, float32."""
        return decode(self.code, codebook(self.bits, self.book).levels.to(self.code.index.device))

    def to_bytes(self) -> Tensor:
        """The record, uint8 on the CPU, (record_bytes,)."""
        statistics = torch.stack([self.code.mean, self.code.std]).float().cpu()
        return torch.cat(
            [pack(self.code.index.cpu(), self.bits), _little_endian(statistics.view(torch.uint8))]
        )

    @classmethod
    def from_bytes(cls, record: Tensor, shape: Sequence[int], bits: int, book: BookName) -> Stored:
        """The inverse of `to_bytes`.

        Args:
            record: uint8, (record_bytes,).
            shape: Of the matrix.
            bits: Of each number.
            book: Name of the codebook.
        """
        index = unpack(record[:-STATISTICS_BYTES], bits, math.prod(shape)).reshape(tuple(shape))
        mean, std = _little_endian(record[-STATISTICS_BYTES:]).clone().view(torch.float32)
        return cls(Code(index, mean, std), bits, book)


def record_bytes(count: int, bits: int) -> int:
    """Bytes of a record of so many numbers."""
    return packed_bytes(count, bits) + STATISTICS_BYTES


def _little_endian(data: Tensor) -> Tensor:
    """Bytes of float32 numbers from this machine's order, or to it."""
    return data if sys.byteorder == "little" else data.view(-1, 4).flip(1).reshape(-1)
