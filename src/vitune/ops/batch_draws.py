"""Random numbers of a computation that takes a part of the batch at a time: those of the whole batch.

Dropout and drop path draw one tensor for all images. Kernels draw other numbers for two halves than for the whole, so
the first part draws for all, and the others take their rows. A second pass from the same state finds the same again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten
_SEEDED = torch.Tag.nondeterministic_seeded


class DrawsOtherwiseError(Exception):
    """An operation draws numbers in a way that is not known by image, such as attention with dropout in one kernel."""


class BatchDraws:
    """What a pass over the parts of a batch draws, from the state that the generators are in now.

    Args:
        images: Of the whole batch.
        device: Where it is.
    """

    def __init__(self, images: int, device: torch.device) -> None:
        self._images, self._generators = images, _generators(device)
        self._states = [generator.get_state() for generator in self._generators]

    def first(self) -> Callable[[slice], Rows]:
        """A pass: gets the rows of a part, gives the context in which to compute it. Parts come in order."""
        drawn: list[Tensor] = []
        return lambda rows: Rows(drawn, self._images, rows)

    @contextmanager
    def again(self) -> Iterator[Callable[[slice], Rows]]:
        """Another pass, with the numbers of the first; the generators are left as they were found."""
        found = [generator.get_state() for generator in self._generators]
        self.rewind()
        try:
            yield self.first()
        finally:
            for generator, state in zip(self._generators, found, strict=True):
                generator.set_state(state)

    def rewind(self) -> None:
        """Put the generators back to where they were before the first pass."""
        for generator, state in zip(self._generators, self._states, strict=True):
            generator.set_state(state)


def _generators(device: torch.device) -> list[torch.Generator]:
    if device.type != "cuda":
        return [torch.default_generator]
    index = torch.cuda.current_device() if device.index is None else device.index
    return [torch.default_generator, torch.cuda.default_generators[index]]


class Rows(TorchDispatchMode):
    """Computes one part of a batch.

    Args:
        drawn: What the pass drew for the whole batch so far; the first part adds to it.
        images: Of the whole batch.
        rows: Of the part.

    Raises:
        DrawsOtherwiseError: From an operation that cannot be told what to draw.
    """

    def __init__(self, drawn: list[Tensor], images: int, rows: slice) -> None:
        super().__init__()
        self._drawn, self._images, self._rows = drawn, images, range(images)[rows]
        self._next = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The operation, or the rows of what it draws for the batch."""
        kwargs = kwargs or {}
        if _SEEDED not in func.tags or dropout_inside(func, args) == 0:
            return func(*args, **kwargs)
        if func is _aten.bernoulli_.float and not kwargs:
            target, *keep = args
            # As booleans, since they are kept until the last part is through.
            return target.copy_(self._take(target, lambda: self._whole(target).bernoulli_(*keep).bool()))
        if func is _aten.native_dropout.default and args[2]:
            x, rate = args[:2]
            mask = self._take(x, lambda: func(self._whole(x).fill_(1), rate, True)[1])
            # Multiplies by mask and scale in one go, as the fused kernel of CUDA does.
            return _aten.native_dropout_backward(x, mask, 0.0 if rate == 1 else 1 / (1 - rate)), mask
        if func is _aten.rand.default:
            like = torch.empty(args[0], device="meta")
            size = [self._scale(like) * self._images, *args[0][1:]]
            # A copy, since callers round it in place.
            return self._take(like, lambda: func(size, *args[1:], **kwargs)).clone()
        raise DrawsOtherwiseError(func)

    def _take(self, like: Tensor, draw: Callable[[], Tensor]) -> Tensor:
        scale = self._scale(like)
        if self._next == len(self._drawn):
            self._drawn.append(draw())
        whole = self._drawn[self._next]
        self._next += 1
        return whole[scale * self._rows.start : scale * self._rows.stop]

    def _scale(self, like: Tensor) -> int:
        """Rows of a tensor per image: one, or more where an image comes as several windows."""
        scale, rest = divmod(len(like) if like.dim() else 1, len(self._rows))
        if rest:
            raise DrawsOtherwiseError(tuple(like.shape))
        return scale

    def _whole(self, like: Tensor) -> Tensor:
        """An empty tensor for the whole batch, in the order in memory that this part has."""
        order = sorted(range(like.dim()), key=lambda i: (-like.stride(i), i))
        size = [self._scale(like) * self._images, *like.shape[1:]]
        return torch.empty_permuted(size, order, dtype=like.dtype, device=like.device)


def dropout_inside(func: Any, args: Any) -> float | None:
    """The rate with which an operation such as attention drops by itself; None where it has no such argument."""
    names = [argument.name for argument in func._schema.arguments]
    if "dropout_p" not in names:
        return None
    where = names.index("dropout_p")
    return args[where] if len(args) > where else 0.0
