"""The prompts of a block, and the layer behind which they are gone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitune.anatomy import Anatomy, Block
from vitune.errors import UnsupportedBackboneError
from vitune.methods._once import Once
from vitune.surgery import CONTEXT, has_point


class Prompts(nn.Module):
    """The prompts of one block: (p, D), or (p, r) where a linear layer takes them to the width D.

    Args:
        prompts: The parameter; one that several blocks share is given to each.
        dropout: Probability.
        prefix: Class, distillation and register tokens, behind which prompts enter a sequence.
        project: The layer that all blocks share.
    """

    def __init__(
        self, prompts: nn.Parameter, dropout: float, prefix: int, project: nn.Linear | None = None
    ) -> None:
        super().__init__()
        self.prompts = prompts
        self.dropout, self.prefix = dropout, prefix
        self.project = project

    def values(self) -> Tensor:
        """(p, D)."""
        return self.prompts if self.project is None else self.project(self.prompts)

    def rows(self, batch: int) -> Tensor:
        """(1, p, D), or (B, p, D) while dropout draws for each image."""
        rows = self.values()[None]
        if self.training and self.dropout:
            return F.dropout(rows.expand(batch, -1, -1), self.dropout)
        return rows

    def forward(self, stream: Tensor, block: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """The prompts for a stream (B, N, D) at the point `context`; or around a block, the block's value with them
        in its sequence, (B, N + p, D)."""
        rows = self.rows(stream.shape[0])
        if block is None:
            return rows
        rows = rows.to(stream.dtype).expand(stream.shape[0], -1, -1)
        return block(torch.cat([stream[:, : self.prefix], rows, stream[:, self.prefix :]], dim=1))


class Leave(nn.Module):
    """Takes prompts that went through the blocks out of the sequence.

    Args:
        prompts: Their number.
        prefix: Tokens in front of them.
    """

    def __init__(self, prompts: int, prefix: int) -> None:
        super().__init__()
        self.prompts, self.prefix = prompts, prefix

    def forward(self, x: Tensor) -> Tensor:
        """(B, N + p, D) to (B, N, D)."""
        return torch.cat([x[:, : self.prefix], x[:, self.prefix + self.prompts :]], dim=1)


def require_context(anatomy: Anatomy, name: str, blocks: Iterable[Block]) -> None:
    """Make sure that blocks take further tokens.

    Raises:
        UnsupportedBackboneError: If one does not.
    """
    for block in blocks:
        if not has_point(anatomy.model.get_submodule(block.path), CONTEXT):
            raise UnsupportedBackboneError(
                f"{name}: block {block.index} of this {anatomy.family} backbone does not attend to tokens "
                f"beyond its own."
            )


def uniform(shape: tuple[int, ...], bound: float) -> nn.Parameter:
    """A parameter that starts uniform in (-bound, bound)."""
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))


def projection(width: int, out: int) -> nn.Linear:
    """The linear layer in front of all prompts; its bias keeps the usual start."""
    layer = nn.Linear(width, out)
    nn.init.kaiming_normal_(layer.weight, a=0, mode="fan_out")
    return layer


@dataclass(frozen=True)
class MakePrompts:
    """Makes the prompts of a block.

    Attributes:
        shape: (p, D) or (p, r).
        bound: Of their uniform start.
        dropout: Probability.
        prefix: Tokens in front of prompts in a sequence.
        shared: Gives the prompts, where all blocks have the same.
        project: Gives the projection, where there is one.
    """

    shape: tuple[int, int]
    bound: float
    dropout: float
    prefix: int
    shared: Once[nn.Parameter] | None = None
    project: Once[nn.Linear] | None = None

    def __call__(self) -> Prompts:
        """The layer."""
        prompts = self.shared() if self.shared else uniform(self.shape, self.bound)
        return Prompts(prompts, self.dropout, self.prefix, self.project() if self.project else None)


def once_uniform(shape: tuple[int, int], bound: float, layers: int) -> Once[nn.Parameter]:
    """One set of prompts for several layers."""
    return Once(partial(uniform, shape, bound), layers)


def once_projection(width: int, out: int, layers: int) -> Once[nn.Linear]:
    """One projection for several layers."""
    return Once(partial(projection, width, out), layers)
