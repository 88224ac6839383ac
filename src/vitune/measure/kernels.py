"""What matrix products leave behind on a CPU.

In half precision oneDNN writes a kernel for every shape of a product that it meets, and keeps it for the next time;
PyTorch asks it for every matrix product of that kind. In single precision there is nothing of that sort.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# Of a kernel, whatever the shape (`python -m benchmarks.forecast` measures it): between 0.52 and 0.70 MiB.
KERNEL_BYTES = 600 * 2**10

_aten = torch.ops.aten
_PRODUCTS = {_aten.mm.default, _aten.addmm.default, _aten.bmm.default, _aten.baddbmm.default}
_HALVES = (torch.bfloat16, torch.float16)
# Products of fewer multiply-accumulates do not go to oneDNN.
_SMALLEST = 16**3


class KernelCount(TorchDispatchMode):
    """Counts the kernels that half-precision products on a CPU ask for while it is active."""

    def __init__(self) -> None:
        super().__init__()
        self._kinds: set[Any] = set()

    @property
    def bytes(self) -> int:
        """What the kernels take."""
        return KERNEL_BYTES * len(self._kinds)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The operation."""
        if func in _PRODUCTS:
            one, other = args[-2:]
            if one.dtype in _HALVES and one.device.type == "cpu" and _work(one, other) > _SMALLEST:
                self._kinds.add((func, *(_layout(tensor) for tensor in args)))
        return func(*args, **(kwargs or {}))


def _work(one: Tensor, other: Tensor) -> int:
    return one.numel() * other.shape[-1]


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    return tuple(tensor.shape), tuple(tensor.stride())
