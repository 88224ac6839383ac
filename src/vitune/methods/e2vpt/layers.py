"""Visual prompts under masks, and key-value prompts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from vitune.methods._once import Once
from vitune.methods.vpt.layers import MakePrompts, Prompts, uniform

Layout = Literal["strided", "contiguous"]
KVStart = Literal["kaiming", "uniform", "normal"]


class Masks(nn.Module):
    """The masks that the prompts of all blocks share: one value per token (p,), and per segment of it (p, S).

    Args:
        tokens: Number p of prompts.
        segments: Number S of segments of a prompt; it divides the prompts' width.
        layout: `strided`: segment s has the channels s, s + S, s + 2 S, ...; `contiguous`: neighbouring channels.
        trained: Whether they are parameters; else they are buffers.
    """

    token: Tensor
    segment: Tensor
    pruned: Tensor

    def __init__(self, tokens: int, segments: int, layout: Layout, trained: bool) -> None:
        super().__init__()
        self.layout: Layout = layout
        values = {"token": torch.ones(tokens), "segment": torch.ones(tokens, segments)}
        for name, value in values.items():
            if trained:
                self.register_parameter(name, nn.Parameter(value))
            else:
                self.register_buffer(name, value)
        # Set when tokens and segments are pruned: the masks rest from then on, also in a loaded adapter.
        self.register_buffer("pruned", torch.zeros((), dtype=torch.bool))

    def forward(self, width: int) -> Tensor:
        """The factors (p, D) of the prompts."""
        return factors(self.token, self.segment, self.layout, width)


def factors(token: Tensor, segment: Tensor, layout: Layout, width: int) -> Tensor:
    """The factors (p, D) of prompts under masks (p,) and (p, S)."""
    times = width // segment.shape[1]
    if layout == "strided":
        by_channel = segment.repeat(1, times)
    else:
        by_channel = segment.repeat_interleave(times, dim=1)
    return by_channel * token[:, None]


class MaskedPrompts(Prompts):
    """The prompts of a block under the shared masks. The reference masks after dropout, which is the same product."""

    def __init__(
        self,
        prompts: nn.Parameter,
        dropout: float,
        prefix: int,
        project: nn.Linear | None = None,
        *,
        masks: Masks,
    ) -> None:
        super().__init__(prompts, dropout, prefix, project)
        self.masks = masks

    def values(self) -> Tensor:
        """(p, D); what is pruned is 0 and stays a token."""
        values = super().values()
        return values * self.masks(values.shape[-1])


class KeyValuePrompts(nn.Module):
    """n further keys and values of every head, used as they are: no projection, no norm, no position.

    Args:
        heads: Number H of heads.
        count: Number n of prompts.
        width: Channels d of a head.
        shared: Whether one tensor serves as keys and values.
        start: Distribution of the start.
        patch: Pixels of a patch, for the start `uniform`.
    """

    def __init__(
        self, heads: int, count: int, width: int, *, shared: bool, start: KVStart, patch: int
    ) -> None:
        super().__init__()
        shape = (heads, count, width)
        self.keys = kv_start(shape, start, patch)
        self.values = None if shared else kv_start(shape, start, patch)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values, (1, H, n, d) each, whatever the attention's input."""
        return self.keys[None], (self.keys if self.values is None else self.values)[None]


def kv_start(shape: tuple[int, int, int], start: KVStart, patch: int) -> nn.Parameter:
    """A tensor (H, n, d) as the reference's three modes start it; `kaiming` is that of all its released commands."""
    _, count, width = shape
    if start == "kaiming":  # Kaiming-uniform, gain sqrt 2, whose fan-in of such a tensor is n d
        return uniform(shape, math.sqrt(6 / (count * width)))
    if start == "uniform":
        return uniform(shape, math.sqrt(6 / (3 * patch + 16)))
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(shape), std=0.02))


@dataclass(frozen=True)
class MakeMaskedPrompts(MakePrompts):
    """Makes the prompts of a block.

    Attributes:
        masks: Gives the masks that all blocks share; None: without.
    """

    masks: Once[Masks] | None = None

    def __call__(self) -> Prompts:
        """The layer."""
        plain = super().__call__()
        if self.masks is None:
            return plain
        return MaskedPrompts(plain.prompts, self.dropout, self.prefix, plain.project, masks=self.masks())
