"""Visual prompts under masks, and key-value prompts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional as F

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
    kept: Tensor | None

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
        # Which tokens are left, and how many are gone, once the masks rest; `settled_for` says for which
        # values of them (their parameter and its version); None: not yet.
        self.register_buffer("kept", None, persistent=False)
        self.gone = 0
        self.settled_for: tuple[int, int] | None = None

    def settle(self) -> None:
        """Find out which tokens are left: the masks rest from now on."""
        self.kept = self.token.detach().nonzero().flatten()
        self.gone = len(self.token) - len(self.kept)
        self.settled_for = id(self.token), self.token._version

    def folds(self) -> bool:
        """Whether several tokens are gone, so that one of them can stand for all."""
        if self.settled_for is None:
            return False
        traced = torch.compiler.is_compiling() or isinstance(self.token, FakeTensor)
        if not traced and self.settled_for != (
            id(self.token),
            self.token._version,
        ):  # other values were loaded
            self.settle()
        return self.gone > 1

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
    """The prompts of a block under the shared masks. The reference masks after dropout, which is the same product.

    A pruned prompt is a token of zeros, of which a LayerNorm makes its bias: one constant key and value in a block.
    Where t of them are attended to and never ask, they are the same row t times over, and one row whose scores are
    log t larger stands for all; the others are not computed.

    Args:
        prompts: As for `Prompts`, as are `dropout`, `prefix` and `project`.
        masks: The masks that all blocks share.
        foldable: Whether these prompts never ask.
    """

    def __init__(
        self,
        prompts: nn.Parameter,
        dropout: float,
        prefix: int,
        project: nn.Linear | None = None,
        *,
        masks: Masks,
        foldable: bool = False,
    ) -> None:
        super().__init__(prompts, dropout, prefix, project)
        self.masks = masks
        self.foldable = foldable

    def values(self) -> Tensor:
        """(p, D); what is pruned is 0. Folded: (p - t + 1, D), the rows that are left and one of zeros in front."""
        values = super().values()
        values = values * self.masks(values.shape[-1])
        if not self._folded():
            return values
        return torch.cat([values.new_zeros(1, values.shape[1]), values[self.masks.kept]])

    def score_bias(self) -> Tensor | None:
        """log t for the row that stands for t, 0 for the others; None: nothing is folded."""
        if not self._folded():
            return None
        assert self.masks.kept is not None
        bias = self.prompts.new_full((1,), math.log(self.masks.gone))
        return F.pad(bias, (0, len(self.masks.kept)))

    def _folded(self) -> bool:
        return self.foldable and self.masks.folds()


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
        foldable: Whether the prompts never ask, so that one may stand for all that are pruned.
    """

    masks: Once[Masks] | None = None
    foldable: bool = False

    def __call__(self) -> Prompts:
        """The layer."""
        plain = super().__call__()
        if self.masks is None:
            return plain
        return MaskedPrompts(
            plain.prompts,
            self.dropout,
            self.prefix,
            plain.project,
            masks=self.masks(),
            foldable=self.foldable,
        )
