"""Tensors that are not there until somebody reads them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

_DETACH = torch.ops.aten.detach.default

# Operations that can do without one of their arguments: which it is, and what computes them where it is deferred.
GOES_WITHOUT: dict[Any, tuple[int, Callable[[tuple[Any, ...], dict[str, Any]], Any]]] = {}


class Layout(NamedTuple):
    """What a tensor looks like: sizes, strides, offset in its storage, type and device."""

    size: Sequence[int]
    stride: Sequence[int]
    offset: int | torch.SymInt
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, tensor: Tensor, device: torch.device | None = None) -> Layout:
        """That of a tensor, or of one like it on another device."""
        where = device or tensor.device
        return cls(tensor.size(), tensor.stride(), tensor.storage_offset(), tensor.dtype, where)


class Promise(Protocol):
    """A tensor that is not there, and how to make it."""

    @property
    def like(self) -> Layout:
        """What it looks like."""
        ...

    @property
    def made(self) -> bool:
        """Whether the tensor is there by now, made for somebody else."""
        ...

    def make(self) -> Tensor:
        """The tensor."""
        ...

    def skip(self) -> None:
        """It is not needed after all."""
        ...


class Deferred(Tensor):
    """Stands for a tensor that need not be made where nobody reads it, to autograd like any other.

    What can do without it (`GOES_WITHOUT`) does; everything else that meets it gets the tensor itself.
    """

    promise: Promise

    @staticmethod
    def __new__(cls, promise: Promise) -> Deferred:
        """A tensor without memory."""
        like = promise.like
        made = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            like.size,
            strides=like.stride,
            storage_offset=like.offset,
            dtype=like.dtype,
            device=like.device,
        )
        made.promise = promise
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The operation, without the tensor where that can be."""
        kwargs = kwargs or {}
        if func is _DETACH:  # autograd's own view of what it keeps
            return cls(args[0].promise)
        if func in GOES_WITHOUT:
            which, compute = GOES_WITHOUT[func]
            if isinstance(args[which], cls):
                return compute(args, kwargs)
        args, kwargs = made(args, kwargs)
        return func(*args, **kwargs)


def made(args: Any, kwargs: Any) -> tuple[Any, Any]:
    """The arguments of an operation, with what is deferred among them."""
    return tree_map_only(Deferred, lambda one: one.promise.make(), (args, kwargs or {}))


def _sized_alike(func: Any) -> Callable[[tuple[Any, ...], dict[str, Any]], Any]:
    """An operation that asks its first argument for nothing but its looks, as dropout does before it draws."""

    def compute(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        like = args[0].promise.like
        looks = torch.empty_strided(like.size, like.stride, dtype=like.dtype, device="meta")
        return func(looks, *args[1:], **{**kwargs, "device": kwargs.get("device") or like.device})

    return compute


for _func in (torch.ops.aten.empty_like.default, torch.ops.aten.new_empty.default):
    GOES_WITHOUT[_func] = 0, _sized_alike(_func)


class MadeInSight(TorchDispatchMode):
    """Makes what a backward pass reads where counters of operations and of memory around it see that."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The operation."""
        if func is not _DETACH and func not in GOES_WITHOUT and any(issubclass(t, Deferred) for t in types):
            args, kwargs = made(args, kwargs)
        return func(*args, **kwargs) if kwargs else func(*args)
