from __future__ import annotations

import pytest
import torch

from vitune.ops.packing import pack, packed_bytes, unpack


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 64, 1001])
def test_what_was_packed_comes_back(bits, count):
    generator = torch.Generator().manual_seed(count)
    numbers = torch.randint(2**bits, (count,), dtype=torch.uint8, generator=generator)
    data = pack(numbers, bits)
    assert data.dtype == torch.uint8
    assert len(data) == packed_bytes(count, bits) == (count * bits + 7) // 8
    assert torch.equal(unpack(data, bits, count), numbers)


def test_the_first_number_lies_in_the_lowest_bits():
    assert pack(torch.tensor([1, 0, 0, 0, 0, 0, 0, 1, 1], dtype=torch.uint8), 1).tolist() == [129, 1]
    assert pack(torch.tensor([3, 0, 1, 2], dtype=torch.uint8), 2).tolist() == [0b10010011]
    assert pack(torch.tensor([5, 10], dtype=torch.uint8), 4).tolist() == [0xA5]


def test_a_matrix_is_read_row_by_row():
    assert pack(torch.tensor([[1, 2], [3, 0]], dtype=torch.uint8), 4).tolist() == [0x21, 0x03]
