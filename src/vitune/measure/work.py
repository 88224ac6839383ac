"""How much work a call is, as three counts that its time depends on: arithmetic, memory traffic, operations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vitune.measure.flops import count_flops


@dataclass(frozen=True)
class Work:
    """Counts of one call.

    Attributes:
        flops: Of matrix products, convolutions and attention; a multiply-accumulate is two.
        traffic_bytes: Read and written by all operations, each tensor once per operation.
        operations: Calls of kernels; views are none.
    """

    flops: int
    traffic_bytes: int
    operations: int

    def __add__(self, other: Work) -> Work:
        return Work(
            self.flops + other.flops,
            self.traffic_bytes + other.traffic_bytes,
            self.operations + other.operations,
        )

    def times(self, number: float) -> Work:
        """The counts of so many such calls; a fraction is rounded."""
        counts = (self.flops, self.traffic_bytes, self.operations)
        return Work(*(round(number * count) for count in counts))


class _Traffic(TorchDispatchMode):
    """Adds up what every kernel reads and writes."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = func(*args, **(kwargs or {}))
        read = {_key(tensor): tensor for tensor in _strided((args, kwargs))}
        written = {_key(tensor): tensor for tensor in _strided(outputs)}
        in_place = func._schema.is_mutable
        if in_place or any(
            key not in read for key in written
        ):  # else it is a view, or gives back what it got
            self.operations += 1
            self.bytes += sum(_size(tensor) for tensor in (*read.values(), *written.values()))
        return outputs


def count_work(fn: Callable[[], Any]) -> Work:
    """Count the work of one call, its backward included if the function runs one.

    Args:
        fn: What is counted. On a weightless copy it costs no memory and hardly any time.
    """
    watch = _Traffic()
    with watch:
        flops = count_flops(fn)
    return Work(flops, watch.bytes, watch.operations)


def _strided(values: Any) -> list[Tensor]:
    return [v for v in tree_leaves(values) if isinstance(v, Tensor) and v.layout is torch.strided]


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
