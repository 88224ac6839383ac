"""transformers' `TimmWrapperModel` and `TimmWrapperForImageClassification`: a timm model of any family in a shell."""

from __future__ import annotations

import dataclasses

from torch import nn

from vitune.anatomy._hf import is_one_of
from vitune.anatomy._roles import Anatomy

FAMILY = "hf-timm"
TIMM_FILES = ()
LOOKED_FOR = "transformers TimmWrapperModel or TimmWrapperForImageClassification"

SHELL = "timm_model"


def matches(model: nn.Module) -> bool:
    """Whether the model is of this family; imports nothing to find out."""
    return is_one_of(model, "timm_wrapper", "TimmWrapperModel", "TimmWrapperForImageClassification")


def describe(model: nn.Module) -> Anatomy:
    """Name the parts of the model: those of the timm model inside.

    Raises:
        UnsupportedBackboneError: If the timm model is of no known family.
    """
    from vitune.anatomy import anatomy  # the table that this file is an entry of

    inner = anatomy(model.get_submodule(SHELL))
    return dataclasses.replace(
        inner,
        family=FAMILY,
        model=model,
        operators=tuple(
            dataclasses.replace(o, path=_inside(o.path), biases=tuple(map(_inside, o.biases)))
            for o in inner.operators
        ),
        blocks=tuple(
            dataclasses.replace(
                b, path=_inside(b.path), attention=_inside(b.attention) if b.attention else ""
            )
            for b in inner.blocks
        ),
        head=tuple(map(_inside, inner.head)),
        unused=tuple(map(_inside, inner.unused)),
    )


def _inside(path: str) -> str:
    return f"{SHELL}.{path}"
