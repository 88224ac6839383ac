"""Attach an edit to a module that is not ours, and take it off again.

An edit is a mixin that overrides `forward`. Attaching swaps the class of the module for a subclass
`(edit, ..., base)` that is made once per combination, and adds the edit's layer below the reserved child `vitune`.
Base parameters keep their names and bytes. Such modules survive deepcopy, pickling into a new process,
`torch.compile(fullgraph=True)`, `torch.export` and gradient checkpointing, since nothing is a closure and the class is
rebuilt from its parts.
"""

from __future__ import annotations

import functools
import inspect
import types
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn

from vitune.errors import SurgeryError

CHILD = "vitune"


class Edit:
    """Base of all edits; mixed in before the class of the module that is edited.

    `forward` calls `super().forward(...)` for what is below it, and finds its layer at `self.vitune.<key>`.
    Subclasses are defined at module level, so that they can be pickled by name.

    Attributes:
        key: Name of the edit's layer below the reserved child; also its name in files.
        passes_on: Whether its `forward` takes whatever comes and hands it on; who asks for the signature (the Trainer
            of transformers does, to choose columns of the data) then sees that of the forward pass below.
        inner: Whether it is about how the module itself runs, such as its forward pass written again, and so stays
            below the edits that are around the module, whichever came first.
    """

    key: ClassVar[str]
    passes_on: ClassVar[bool] = False
    inner: ClassVar[bool] = False

    if TYPE_CHECKING:  # what it finds on the module that it is mixed into
        vitune: Any

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            """Of the module."""

    @staticmethod
    def can_fold(module: nn.Module) -> bool:
        """Whether the algebra permits to write the edit's effect into the base weights of the module."""
        return False

    @staticmethod
    def destination(anatomy: Any, role: str) -> tuple[str, type[Edit]] | None:
        """Where the layer of an edit that cannot be folded computes the same at less cost: path and edit, or None.

        Args:
            anatomy: The backbone.
            role: Where the edit is.
        """
        return None

    @staticmethod
    def fold(module: Any, layer: nn.Module) -> None:
        """Write the effect of the layer into the base weights; only called where `can_fold` says so."""


class Extras(nn.Module):
    """Holds the layers that edits brought, one child per edit."""


def attach(module: nn.Module, edit: type[Edit], layer: nn.Module) -> None:
    """Edit a module in place; the latest edit is the outermost, but for inner ones, which stay below all others.

    Args:
        module: Any module with a `forward` that is really called.
        edit: The edit.
        layer: Its new parameters, as a module.

    Raises:
        SurgeryError: If the module has this edit, or holds something under the reserved name.
    """
    base, edits = parts_of(module)
    if edit in edits or edit.key in {other.key for other in edits}:
        raise SurgeryError(f"{base.__name__} is edited by '{edit.key}' already; detach it first.")
    if not edits and hasattr(module, CHILD):
        raise SurgeryError(f"{base.__name__} has an attribute '{CHILD}' of its own; that name is reserved.")
    extras = module.get_submodule(CHILD) if edits else Extras()
    extras.add_module(edit.key, layer)
    module.add_module(CHILD, extras)
    above = tuple(other for other in edits if edit.inner and not other.inner)
    module.__class__ = _edited_class(base, (*above, edit, *edits[len(above) :]))


def detach(module: nn.Module, edit: type[Edit]) -> None:
    """Take an edit off, in any order; after the last one the module is of its own class again.

    Raises:
        SurgeryError: If the module does not have the edit, or another tool changed its class in the meantime.
    """
    base, edits = parts_of(module)
    if edit not in edits:
        raise SurgeryError(
            f"{type(module).__name__} does not carry the edit '{edit.key}'; if another tool (such as FSDP) "
            f"wrapped the model after the edit, undo that first."
        )
    delattr(module.get_submodule(CHILD), edit.key)
    rest = tuple(other for other in edits if other is not edit)
    if rest:
        module.__class__ = _edited_class(base, rest)
    else:
        delattr(module, CHILD)
        module.__class__ = base


def parts_of(module: nn.Module) -> tuple[type[nn.Module], tuple[type[Edit], ...]]:
    """The class a module had before, and its edits, outermost first."""
    cls = type(module)
    # Not inherited: a subclass that another tool made of ours (FSDP does) is not ours to take apart.
    return vars(cls).get("_vitune_parts", (cls, ()))


def layer_of(module: nn.Module, edit: type[Edit]) -> nn.Module:
    """The layer of an edit on a module."""
    return module.get_submodule(f"{CHILD}.{edit.key}")


@functools.cache
def _edited_class(base: type[nn.Module], edits: tuple[type[Edit], ...]) -> type[nn.Module]:
    """One class per combination: torch.compile guards on classes, and pickle needs a recipe."""

    def reduce(self: nn.Module, protocol: Any) -> tuple[Any, ...]:
        return _restore, (base, edits), self.__dict__.copy()

    body = {"__reduce_ex__": reduce, "__module__": base.__module__, "_vitune_parts": (base, edits)}
    if edits[0].passes_on:
        below = _edited_class(base, edits[1:]) if edits[1:] else base
        body["forward"] = _signed(vars(edits[0])["forward"], below.forward)
    # Tools that compare class names (transformers' `_no_split_modules`) must go on finding theirs.
    return type(base.__name__, (*edits, base), body)


def _signed(function: Any, like: Any) -> Any:
    """A copy of a function that says it has the signature of another."""
    code = function.__code__, function.__globals__, function.__name__, function.__defaults__
    copied = types.FunctionType(*code, function.__closure__)
    copied.__doc__, copied.__module__ = function.__doc__, function.__module__
    copied.__signature__ = inspect.signature(like)  # type: ignore[attr-defined]
    return copied


def _restore(base: type[nn.Module], edits: tuple[type[Edit], ...]) -> nn.Module:
    cls = _edited_class(base, edits)
    return cls.__new__(cls)
