"""What a classifier returns: timm gives logits, transformers an object that holds them."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from vitune.errors import UnsupportedBackboneError


def logits_of(output: Any) -> Tensor:
    """The logits (B, C) in what a model returned.

    Raises:
        UnsupportedBackboneError: If it is neither a tensor nor an object with `logits`.
    """
    if isinstance(output, Tensor):
        return output
    logits = getattr(output, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    raise UnsupportedBackboneError(
        f"The model returned {type(output).__name__}, where a tensor or an object with `logits` is expected; "
        "give a model with a classification head."
    )
