"""Kernels of half-precision products are counted once per shape, and only where they are made."""

from __future__ import annotations

import torch
from torch import nn

from vitune.measure import forecast_peak, weightless_copy
from vitune.measure.kernels import KERNEL_BYTES, KernelCount


def kernels(rows: tuple[int, ...], dtype: torch.dtype = torch.bfloat16, width: int = 40) -> int:
    layer = nn.Linear(width, width).to(dtype)
    with KernelCount() as count:
        for n in rows:
            layer(torch.zeros(n, width, dtype=dtype)).sum().backward()
    return count.bytes // KERNEL_BYTES


def test_one_for_each_shape_of_a_product_forward_and_backward():
    assert kernels((64,)) == 2  # the input needs no gradient
    assert kernels((64, 64, 64)) == 2
    assert kernels((64, 80)) == 4
    assert kernels((64,), torch.float16) == 2


def test_none_in_single_precision_and_for_the_smallest():
    assert kernels((64,), torch.float32) == 0
    assert kernels((4,), width=4) == 0


def test_the_forecast_counts_them_on_a_cpu_in_half_precision():
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 128), nn.ReLU(), nn.Linear(128, 64))
    shape = (32, 3, 4, 4)

    def peak(precision) -> int:
        return forecast_peak(model, shape, precision=precision)

    with weightless_copy(model) as twin, KernelCount() as count, torch.autocast("cpu", torch.bfloat16):
        twin(torch.zeros(shape)).sum().backward()
    assert count.bytes == 5 * KERNEL_BYTES
    assert peak("bf16") > 5 * KERNEL_BYTES > peak("fp32")
