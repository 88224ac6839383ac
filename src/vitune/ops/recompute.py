"""Exact leanness: what autograd keeps is, where a cheap operation made it, computed again in the backward pass.

Autograd keeps the output of a LayerNorm for the weight gradient of the layer behind it although the LayerNorm's input,
kept anyway, gives it back at once. Inside `Recomputing`, every operation that the policy names is remembered as a
recipe (the operation and its inputs); a tensor that autograd asks to keep is replaced by its recipe where there is
one, and made again, by the very same kernel on the very same inputs, when the backward pass asks for it. Gradients are
therefore equal bit for bit. Recipes stack: the output of a GELU whose input is itself a recipe needs neither.
Attention of half precision on a CPU is differentiated in float32, without its output where nothing else needs it.

It works below autograd and autocast on single operations, so it needs to know neither models nor methods.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_map_only

from vitune.ops.attention_backward import FORWARD, HALVES
from vitune.ops.deferred import GOES_WITHOUT, Deferred, Layout, made

aten = torch.ops.aten

# What hands an unread product on, to where a block's output leaves: it is left out along with it.
_HANDS_ON = {
    aten.add.Tensor,
    aten.mul.Tensor,
    aten.view.default,
    aten._unsafe_view.default,
    aten._to_copy.default,
}

# Whether an operation overwrites one of its arguments.
_KINDS: dict[Any, bool] = {}

Policy = Callable[[Any, tuple[Any, ...], "Recomputing"], bool]


class Recipe:
    """How to make a tensor again.

    The result is kept from its first use to its last, as counted while packing; a further backward pass through a
    retained graph makes it anew each time.
    """

    __slots__ = ("_args", "_held", "_kwargs", "_operation", "_output", "_uses", "_value")

    def __init__(self, operation: Any, args: Any, kwargs: Any, output: int | None) -> None:
        self._operation, self._args, self._kwargs, self._output = operation, args, kwargs, output
        self._uses = 0
        self._held = False
        self._value: Tensor | None = None

    @property
    def operation(self) -> Any:
        """The operation that made the tensor."""
        return self._operation

    def read(self) -> Recipe | None:
        """The recipe of the first tensor that the operation read, if that has one."""
        first = self._args[0] if self._args else None
        return first.recipe if isinstance(first, _View) else None

    def source(self) -> Tensor | None:
        """The first tensor that the operation read, or that the first operation of its chain of recipes read."""
        first = self._args[0] if self._args else None
        if isinstance(first, _View):
            return first.recipe.source()
        return first.tensor if isinstance(first, _Input) else None

    def retain(self) -> list[Tensor]:
        """Count a coming use, of this recipe and, the first time, of those that it stands on.

        Returns:
            The tensors that are held from now on for the recipe's sake.
        """
        held: list[Tensor] = []
        if not self._held:
            self._held = True
            for leaf in self._leaves():
                held += [leaf.tensor] if isinstance(leaf, _Input) else leaf.recipe.retain()
        self._uses += 1
        return held

    def make(self) -> Tensor:
        """The tensor."""
        if self._value is not None:
            return self._value
        with torch.no_grad():
            args = [_made(argument) for argument in self._args]
            kwargs = {name: _made(argument) for name, argument in self._kwargs.items()}
            result = self._operation(*args, **kwargs)
        value = result if self._output is None else result[self._output]
        self._let_go()
        if self._uses > 0:
            self._value = value
        return value

    @property
    def made(self) -> bool:
        """Whether the tensor is there, for a use to come."""
        return self._value is not None

    def release(self) -> None:
        """One use is over, or turned out not to need the tensor."""
        self._uses -= 1
        if self._uses <= 0:
            self._value = None
            self._let_go()

    def _let_go(self) -> None:
        """What this recipe stands on is not needed for its sake any more."""
        if self._held:
            self._held = False
            for leaf in self._leaves():
                if isinstance(leaf, _View):
                    leaf.recipe.release()

    def _leaves(self) -> list[_View | _Input]:
        flat: list[Any] = []
        for argument in (*self._args, *self._kwargs.values()):
            flat += argument if isinstance(argument, list) else [argument]
        return [leaf for leaf in flat if isinstance(leaf, (_View, _Input))]


class _View:
    """A tensor on the storage that a recipe makes."""

    __slots__ = ("like", "recipe")

    def __init__(self, recipe: Recipe, like: Tensor) -> None:
        self.recipe = recipe
        self.like = Layout.of(like)

    def make(self) -> Tensor:
        return self.recipe.make().as_strided(self.like.size, self.like.stride, self.like.offset)


class _Use:
    """One use of a view, that ends when it is made or skipped."""

    def __init__(self, view: _View) -> None:
        self.like = view.like
        self._view, self._over = view, False

    @property
    def made(self) -> bool:
        return self._view.recipe.made

    def make(self) -> Tensor:
        tensor = self._view.make()
        self.skip()
        return tensor

    def skip(self) -> None:
        if not self._over:
            self._over = True
            self._view.recipe.release()


class _Unread:
    """A result that is computed when, and only when, it is read."""

    def __init__(self, recipe: Recipe, like: Layout) -> None:
        self.like = like
        self._recipe = recipe
        self._value: Tensor | None = None

    @property
    def made(self) -> bool:
        return self._value is not None

    def make(self) -> Tensor:
        if self._value is None:
            self._value = self._recipe.make()
        return self._value

    def skip(self) -> None:
        """Nothing is held for its sake."""


class _Input:
    """A tensor that a recipe holds, guarded against being overwritten in the meantime."""

    __slots__ = ("tensor", "version")

    def __init__(self, tensor: Tensor) -> None:
        self.tensor, self.version = tensor, tensor._version

    def make(self) -> Tensor:
        if self.tensor._version != self.version:
            raise RuntimeError(
                "a tensor that the backward pass computes again from was changed in place after the forward pass; "
                "train with memory='stock', or change it out of place."
            )
        return self.tensor.promise.make() if isinstance(self.tensor, Deferred) else self.tensor


def _on_meta(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device="meta")


def _made(argument: Any) -> Any:
    if isinstance(argument, list):
        return [_made(one) for one in argument]
    return argument.make() if isinstance(argument, (_View, _Input)) else argument


class Recomputing(TorchDispatchMode):
    """A forward pass whose activations are kept as recipes where the policy allows.

    Args:
        policy: Gets an operation, its arguments and this object (for `recipe_of`); True: its output need not be kept.
        candidates: The operations that the policy is asked about.
        unread: Of a pass whose output nobody reads, run again for its graph alone: gets what the policy gets; True: the
            output is computed only if something does read it, and so is what adds to it, scales or reshapes it.
    """

    def __init__(self, policy: Policy, candidates: Collection[Any], unread: Policy | None = None) -> None:
        super().__init__()
        self._policy, self._candidates, self._unread = policy, candidates, unread
        self._recipes: dict[int, tuple[StorageWeakRef, Recipe]] = {}
        self._hooks: saved_tensors_hooks | None = None

    def __enter__(self) -> Recomputing:
        # Hooks do not stack by themselves: those that were there (a counter of saved bytes) are asked by ours.
        self._outer = torch._C._autograd._top_saved_tensors_default_hooks(False)  # type: ignore[attr-defined]
        self._hooks = saved_tensors_hooks(self._pack, self._unpack)
        self._hooks.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        assert self._hooks is not None
        self._hooks.__exit__(*exception)
        self._recipes.clear()

    def recipe_of(self, tensor: Any) -> Recipe | None:
        """The recipe of a tensor's storage, if it has one."""
        if not isinstance(tensor, Tensor) or tensor.layout is not torch.strided:
            return None
        found = self._recipes.get(tensor.untyped_storage()._cdata)
        return None if found is None or found[0].expired() else found[1]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self._unread is not None:
            if self._is_unread(func, args):
                return self._leave_out(func, args, kwargs or {})
            if func not in GOES_WITHOUT:
                args, kwargs = made(args, kwargs)
        result = func(*args, **kwargs) if kwargs else func(*args)
        # Most operations are neither; they must cost next to nothing here.
        kind = _KINDS.get(func)
        if kind is None:
            kind = _KINDS[func] = func._schema.is_mutable
        if kind:
            self._forget_overwritten(func, args, kwargs or {})
        elif func in self._candidates and self._policy(func, args, self):
            self._remember(func, args, kwargs or {}, result)
        return result

    def _is_unread(self, func: Any, args: Any) -> bool:
        if func in _HANDS_ON:
            return any(isinstance(argument, Deferred) for argument in args)
        return func in self._candidates and self._unread is not None and self._unread(func, args, self)

    def _leave_out(self, func: Any, args: Any, kwargs: Any) -> Tensor:
        recipe = Recipe(
            func, tuple(map(self._hold, args)), {k: self._hold(v) for k, v in kwargs.items()}, None
        )
        with _disable_current_modes():  # which are not to count this
            like = func(*tree_map_only(Tensor, _on_meta, args), **kwargs)
        device = next(argument.device for argument in args if isinstance(argument, Tensor))
        return Deferred(_Unread(recipe, Layout.of(like, device)))

    def _remember(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        # The outputs of operations that nobody keeps are dead by now, and their recipes hold inputs.
        for key in [key for key, (storage, _) in self._recipes.items() if storage.expired()]:
            del self._recipes[key]
        output = None if isinstance(result, Tensor) else 0
        tensor = result if output is None else result[output]
        held = tuple(self._hold(argument) for argument in args)
        named = {name: self._hold(argument) for name, argument in kwargs.items()}
        storage = tensor.untyped_storage()
        self._recipes[storage._cdata] = (StorageWeakRef(storage), Recipe(func, held, named, output))

    def _hold(self, argument: Any) -> Any:
        if isinstance(argument, Tensor):
            recipe = self.recipe_of(argument)
            return _Input(argument) if recipe is None else _View(recipe, argument)
        return [self._hold(one) for one in argument] if isinstance(argument, list) else argument

    def _forget_overwritten(self, func: Any, args: Any, kwargs: Any) -> None:
        named = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | kwargs
        for argument in func._schema.arguments:
            target = named.get(argument.name)
            written = argument.alias_info is not None and argument.alias_info.is_write
            if written and isinstance(target, Tensor) and target.layout is torch.strided:
                self._recipes.pop(target.untyped_storage()._cdata, None)

    def _pack(self, tensor: Tensor) -> Any:
        recipe = self.recipe_of(tensor)
        if recipe is not None:
            held = recipe.retain()
            if self._outer is not None:  # a counter is to see what recipes hold, too
                for source in held:
                    self._outer[0](source)
            return _View(recipe, tensor)
        return tensor if self._outer is None else _Outer(self._outer[0](tensor), self._outer[1])

    @staticmethod
    def _unpack(packed: Any) -> Tensor:
        if isinstance(packed, _View):
            use = _Use(packed)
            attention = packed.recipe.operation is FORWARD and packed.like.dtype in HALVES
            return Deferred(use) if attention else use.make()
        return packed.unpack(packed.packed) if isinstance(packed, _Outer) else packed


class _Outer:
    """What hooks around ours made of a tensor."""

    __slots__ = ("packed", "unpack")

    def __init__(self, packed: Any, unpack: Callable[[Any], Tensor]) -> None:
        self.packed, self.unpack = packed, unpack
