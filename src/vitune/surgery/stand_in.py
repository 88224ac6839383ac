"""A stand-in for what lies below an edit: a layer that foreign code may own, call and read.

A tuner layer of another library wraps the layer that it tunes, and the wrapped layer's parameters would get new names.
A stand-in is of the same class, holds the very same parameters, and computes what the edited module computes below the
edit; yet it is no part of the tree of modules, so names and counts stay as they are.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from vitune.surgery.edits import Edit, _edited_class, parts_of
from vitune.surgery.split_bias import bias_of

_OF = "_vitune_stands_for"


class Below(Edit):
    """Computes what a module computes below one of its edits."""

    key = "below"

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the module, without that edit and those above it."""
        edited, edit = self.__dict__[_OF]
        return super(edit, edited).forward(*args, **kwargs)

    @property
    def bias(self) -> Tensor | None:
        """That of the module, wherever it is kept: some layers compute with it in place of calling what they wrap."""
        return bias_of(self.__dict__[_OF][0])


def stand_in(module: nn.Module, edit: type[Edit], *above: type[Edit]) -> nn.Module:
    """A layer that shares the parameters and buffers of a module and computes what lies below an edit.

    Keep it where PyTorch does not look for children, such as `vars(owner)`: it refers back to the module.

    Args:
        module: The module; called only once the edit is attached.
        edit: The edit that will own the stand-in.
        above: Edits of the stand-in itself, outermost first; they find what they need in its `__dict__`.
    """
    base, _ = parts_of(module)
    cls = _edited_class(base, (*above, Below))
    twin = cls.__new__(cls)
    nn.Module.__init__(twin)
    fresh = {
        name: twin.__dict__[name] for name in twin.__dict__ if name.endswith("_hooks") or name == "_modules"
    }
    twin.__dict__.update(module.__dict__)
    twin.__dict__.update(fresh)  # hooks of the module run when the module is called
    twin.__dict__[_OF] = (module, edit)
    return twin


class AlwaysInEvaluation(Edit):
    """Keeps a layer in evaluation mode, for one whose training mode only draws numbers that decide nothing."""

    key = "evaluation"

    def train(self, mode: bool = True) -> Any:
        """Stay in evaluation mode."""
        return super().train(False)  # type: ignore[misc]
