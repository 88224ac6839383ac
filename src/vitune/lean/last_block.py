"""The last block for the tokens that the head reads, where it reads one or two of them.

All tokens are attended to; only those that the head reads ask, and only they pass through the MLP and the final norm.
That is the same function, at a third of the last block's work and next to none of its memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from vitune.anatomy import Anatomy, short_name
from vitune.errors import UnsupportedBackboneError
from vitune.surgery import (
    CONTEXT,
    AttachAtPoint,
    Edit,
    Step,
    attach,
    carry_out,
    detach,
    layer_of,
    parts_of,
    points_for,
    undo,
)

KEY = "memory"
_ATTENTION = ("attn.qkv", "attn.q", "attn.k", "attn.v")


class Rest(nn.Module):
    """The tokens that are only attended to, there while a training step passes through the block."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens: Tensor | None = None

    def forward(self, stream: Tensor) -> Tensor | None:
        """Whatever the stream, (B, N - n, D), or None."""
        return self.tokens


class Read(nn.Module):
    """How many tokens the head reads; `active` while a training step runs."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count
        self.active = False


class ReadTokensOnly(Edit):
    """The last block: (B, N, D) to (B, n, D) in a training step, as it is otherwise."""

    key = KEY
    inner = True

    def forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """The tokens that the head reads."""
        read: Read = self.vitune.memory
        masked = any(isinstance(value, Tensor) for value in (*args, *kwargs.values()))
        if not read.active or masked or _needs_all(self):
            return super().forward(x, *args, **kwargs)
        rest: Rest = self.vitune.points.at(CONTEXT)[KEY]
        rest.tokens = x[:, read.count :]
        try:
            return super().forward(x[:, : read.count], *args, **kwargs)
        finally:
            rest.tokens = None


def as_then(block: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
    """A block's forward pass that reads the tokens which it would read now, whenever it is called."""
    if ReadTokensOnly not in parts_of(block)[1]:
        return forward
    read = layer_of(block, ReadTokensOnly)
    assert isinstance(read, Read)
    active = read.active and not _needs_all(block)

    def run(*args: Any, **kwargs: Any) -> Any:
        before, read.active = read.active, active
        try:
            return forward(*args, **kwargs)
        finally:
            read.active = before

    return run


def _needs_all(block: nn.Module) -> bool:
    """Whether a layer in the block decides about every token or averages them, in a way that the loss hears of."""
    return any(getattr(module, "needs_all_tokens", False) for module in block.modules())


def read_tokens_only(anatomy: Anatomy) -> bool:
    """Edit the last block, where the head reads single tokens and the block can attend to others; whether it did."""
    if anatomy.pooling != "token" or not anatomy.head or not anatomy.blocks:
        return False
    block = anatomy.model.get_submodule(anatomy.blocks[-1].path)
    try:
        forward = points_for(block)
        if CONTEXT not in forward.points or not getattr(forward, "any_tokens", True):
            return False
        carry_out(anatomy.model, _steps(anatomy))
    except UnsupportedBackboneError:
        return False
    attach(block, ReadTokensOnly, Read(len(anatomy.head)))
    return True


def read_all_tokens(anatomy: Anatomy) -> None:
    """Undo `read_tokens_only`."""
    block = anatomy.model.get_submodule(anatomy.blocks[-1].path) if anatomy.blocks else None
    if block is not None and ReadTokensOnly in parts_of(block)[1]:
        detach(block, ReadTokensOnly)
        undo(anatomy.model, _steps(anatomy))


def attention_weights(anatomy: Anatomy) -> list[str]:
    """Weights of the last block that make queries, keys and values: with nothing else kept, worth making again."""
    start = f"blocks.{len(anatomy.blocks) - 1}."
    wanted = (o for o in anatomy.operators if o.role.startswith(start) and short_name(o.role) in _ATTENTION)
    return [f"{operator.path}.weight" for operator in wanted]


def _steps(anatomy: Anatomy) -> list[Step]:
    last = anatomy.blocks[-1]
    return [AttachAtPoint(f"blocks.{last.index}.{CONTEXT}", last.path, CONTEXT, KEY, Rest)]
