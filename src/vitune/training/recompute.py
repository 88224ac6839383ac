"""Gradient checkpointing: blocks are computed again in the backward pass in place of being kept."""

from __future__ import annotations

from torch import nn

from vitune.errors import UnsupportedBackboneError


def enable_recomputation(model: nn.Module) -> None:
    """Switch on gradient checkpointing, always the non-reentrant kind.

    The reentrant kind gives no gradients at all where the input of a block needs none, as behind a frozen
    stem.

    Args:
        model: A timm or transformers model.

    Raises:
        UnsupportedBackboneError: If the model cannot do it.
    """
    if hasattr(model, "gradient_checkpointing_enable"):
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})  # pyright: ignore
    elif hasattr(model, "set_grad_checkpointing"):
        model.set_grad_checkpointing(True)  # pyright: ignore[reportCallIssue]
    else:
        raise UnsupportedBackboneError(
            f"{type(model).__name__} cannot recompute its blocks; train without grad_checkpointing."
        )
