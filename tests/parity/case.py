"""What a method's file in `references` says: the method, its tensors' names, and how other kinds are checked."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from vitune import Method, Tuned

Names = Callable[[str], str | None]
Aux = Callable[[Tuned, Mapping[str, Tensor]], dict[str, Tensor]]


def _no_aux(tuned: Tuned, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {}


@dataclass(frozen=True)
class Case:
    """How a golden of kind `model` is run.

    Attributes:
        method: The method, or several.
        name: From a reference's name of a new tensor to ours; None: not a new tensor.
        inputs: Further tensors of the golden that are put into the model, by their name there: our state-dict name.
        aux: Further tensors to compare, made from the tuned model and the golden's tensors after the backward pass.
        idle: Names of ours that the reference does not have, and that change nothing as they start.
    """

    method: Method | Sequence[Method]
    name: Names
    inputs: Mapping[str, str] = field(default_factory=dict)
    aux: Aux = _no_aux
    idle: Collection[str] = ()


def none_new(name: str) -> str | None:
    return None


def substitution(*rules: tuple[str, str]) -> Names:
    """The first rule whose pattern matches the whole name renames it."""

    def rename(name: str) -> str | None:
        for pattern, replacement in rules:
            if re.fullmatch(pattern, name):
                return re.sub(pattern, replacement, name)
        return None

    return rename
