"""Anatomy: what a backbone is made of, as data. One file per family."""

from __future__ import annotations

from torch import Tensor, nn

from vitune.anatomy import hf_vit, timm_vit
from vitune.anatomy._roles import ALL_LINEAR, Anatomy, Block, Layout, Operator, Slot, short_name
from vitune.anatomy._tree import tree
from vitune.errors import UnsupportedBackboneError

__all__ = ["ALL_LINEAR", "FAMILIES", "Anatomy", "Block", "Layout", "Operator", "Slot"]
__all__ += ["anatomy", "logits", "short_name", "tree"]

FAMILIES = {family.FAMILY: family for family in (timm_vit, hf_vit)}


def anatomy(model: nn.Module) -> Anatomy:
    """Find the family of a backbone and name its parts by role.

    Args:
        model: A timm or transformers model; edits already made on it do not matter.

    Raises:
        UnsupportedBackboneError: If no family matches; names what was looked for.
    """
    for family in FAMILIES.values():
        if family.matches(model):
            return family.describe(model)
    looked_for = "; ".join(family.LOOKED_FOR for family in FAMILIES.values())
    raise UnsupportedBackboneError(
        f"no known backbone family matches {type(model).__name__}; looked for: {looked_for}."
    )


def logits(model: nn.Module, images: Tensor) -> Tensor:
    """Class scores, whatever the library wraps them in.

    Args:
        model: A backbone of a known family (or one wrapped for data parallel).
        images: (B, channels, height, width).

    Returns:
        (B, C) scores; pooled features (B, D) where the model has no head.
    """
    output = model(images)
    for name in ("logits", "pooler_output"):
        if getattr(output, name, None) is not None:
            return getattr(output, name)
    if getattr(output, "last_hidden_state", None) is not None:
        return output.last_hidden_state[:, 0]
    # A distilled model in training mode returns (class token scores, distillation token scores).
    return (output[0] + output[1]) / 2 if isinstance(output, tuple) else output
