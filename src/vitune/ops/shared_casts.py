"""Casts of weights, made once for a computation that takes a part of the batch at a time.

Autocast makes a half-precision copy of a frozen weight every time that it is used. Where a block runs in parts, that is
once for each part, and costs more than a small part's product with it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_TO_COPY, _ALIAS = torch.ops.aten._to_copy.default, torch.ops.aten.alias.default


class SharedCasts(TorchDispatchMode):
    """Gives the cast of a weight that it has seen before.

    Args:
        weights: None of them may change while the casts are in use.
    """

    def __init__(self, weights: Iterable[Tensor]) -> None:
        super().__init__()
        self._weights = {weight.untyped_storage()._cdata for weight in weights}
        self._casts: dict[Any, Tensor] = {}
        self._sources: dict[int | None, int | None] = {}

    def source_of(self, tensor: Tensor) -> int | None:
        """Identity of the storage of a tensor, or of that of the weight which it is a cast of."""
        storage = tensor.untyped_storage()._cdata
        return self._sources.get(storage, storage)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The operation, or another view of the cast."""
        kwargs = kwargs or {}
        if func is not _TO_COPY or args[0].untyped_storage()._cdata not in self._weights:
            return func(*args, **kwargs)
        weight = args[0]
        source = weight.untyped_storage()._cdata
        layout = tuple(weight.shape), tuple(weight.stride()), weight.storage_offset()
        key = source, layout, tuple(sorted(kwargs.items(), key=lambda item: item[0]))
        if key not in self._casts:
            cast = self._casts[key] = func(*args, **kwargs)
            self._sources[cast.untyped_storage()._cdata] = source
        # Autograd writes a history into what it gets, so that each use needs a tensor of its own.
        return _ALIAS(self._casts[key])
