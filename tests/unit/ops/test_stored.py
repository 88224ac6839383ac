from __future__ import annotations

import struct

import pytest
import torch

from vitune.ops.stored import Stored, record_bytes


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("shape", [(3, 5), (8, 16)])
def test_a_record_comes_back_bit_for_bit(bits, shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    stored = Stored.of(matrix, bits, "converged")
    record = stored.to_bytes()
    assert len(record) == record_bytes(matrix.numel(), bits)
    again = Stored.from_bytes(record, shape, bits, "converged")
    assert torch.equal(again.code.index, stored.code.index)
    assert torch.equal(again.decode(), stored.decode())
    assert torch.equal(again.to_bytes(), record)


def test_a_record_by_hand():
    record = Stored.of(torch.tensor([[1.0, 2.0], [3.0, 6.0]]), 1, "reference").to_bytes()
    mean, std = struct.unpack("<ff", bytes(record[1:].tolist()))
    assert record[0] == 0b1000
    assert mean == 3.0
    assert std == pytest.approx((14 / 3) ** 0.5)


def test_more_bits_are_nearer():
    matrix = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    errors = [
        (Stored.of(matrix, bits, "converged").decode() - matrix).square().mean() for bits in (1, 2, 4, 8)
    ]
    # bi.md 2.3: E e^2
    torch.testing.assert_close(
        torch.stack(errors)[:3], torch.tensor([0.3786, 0.1290, 0.0118]), rtol=0.25, atol=0
    )
    assert errors[3] < 1e-3
