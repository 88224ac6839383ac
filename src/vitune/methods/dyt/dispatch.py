"""Layers around a part of a block that let tokens skip it: `m * part(stream)` for the mask m of a gate.

Training computes the part for all tokens, since the gradient of m needs them, but keeps and goes back through the
active ones alone where rows do not mix (MLP): the gradient into a skipped row is m * g = 0, so this is exact.
Inference gathers the active rows of the whole batch, whatever their number in each image, computes these and puts them
back; where nearly all are active it computes all. A program of torch.export does the same, with numbers of rows that
are known when it runs. A compiled model computes all and masks, so does any within `computing_all`.

Attention and layer dispatch are the paper's text (section 3.2, table 1) with two choices of ours. Training hides
skipped keys, so that it computes what inference does; `attend="all"` is the literal text. A layer that is skipped in
part is `x + m * (F(x) - x)`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional as F

from vitune.methods.dyt.gate import Decision, Gate, GateSettings
from vitune.surgery.points import Branch

# Gathering costs a little: with a larger share of active tokens all are computed.
DENSE_SHARE = 0.95
# Gathered rows come in at most about so many numbers. Gates ask for another one each time, and libraries write a kernel
# for each: without this, half precision on a CPU holds hundreds of MiB of them after some dozens of steps.
SIZES = 64


class Dispatch(Gate, ABC):
    """A gate in front of a part of a block.

    Attributes:
        complete: Whether the gate is out of use and every token goes through.
        dense: Whether all tokens are computed at inference and masked, in place of skipping.
        unread: Whether nobody reads the patch tokens behind this block; at inference.
        record: Where decisions are noted, if anybody wants to see them.
        draws_numbers: Whether a second forward pass must find the random generator as the first did.
    """

    draws_numbers: ClassVar[bool] = True

    def __init__(self, width: int, prefix: int, settings: GateSettings) -> None:
        super().__init__(width, prefix, settings)
        self.complete = False
        self.dense = False
        self.unread = False
        self.record: list[Decision] | None = None

    @property
    def needs_all_tokens(self) -> bool:
        """Whether it decides about tokens that nobody reads, too: their number is part of the loss."""
        return not self.complete

    def forward(self, stream: Tensor, part: Branch) -> Tensor:  # type: ignore[override]
        """What stands for the part's value on the stream (B, ..., D).

        Args:
            stream: The residual stream, prefix tokens first.
            part: The part, a function of the stream or of some of its rows.
        """
        if self.complete:
            return part(stream)
        decision = super().forward(stream)
        if self.record is not None:
            self.record.append(decision)
        mask = F.pad(decision.mask, (self.prefix, 0), value=1.0)  # prefix tokens are always active
        mask = mask.view(stream.shape[:-1])
        if self.dense:
            return self._masked(stream, part, mask)
        if torch.compiler.is_exporting() and not self.training:
            return self._exported(stream, part, mask)
        if torch.compiler.is_compiling():
            return self._masked(stream, part, mask)
        if mask.requires_grad:
            return self._trained(stream, part, mask)
        return self._skipped(stream, part, mask)

    @abstractmethod
    def _masked(self, stream: Tensor, part: Branch, mask: Tensor) -> Tensor:
        """All tokens, then the mask."""

    def _trained(self, stream: Tensor, part: Branch, mask: Tensor) -> Tensor:
        """The same with the leanest backward pass there is."""
        return self._masked(stream, part, mask)

    @abstractmethod
    def _skipped(self, stream: Tensor, part: Branch, mask: Tensor) -> Tensor:
        """The same from active tokens alone."""

    @abstractmethod
    def _exported(self, stream: Tensor, part: Branch, mask: Tensor) -> Tensor:
        """The same without a decision that depends on values, so that it can be traced."""

    def _keys(self, mask: Tensor) -> Tensor | None:
        """Tokens (B, N) that attention may see, or None for all; an image without an active token sees all."""
        if self.training and not self.settings.hide_skipped:
            return None
        active = mask.detach() > 0.5
        return active | ~active.any(1, keepdim=True)


class MlpDispatch(Dispatch):
    """Tokens skip the MLP. Rows do not mix, so those of all images are gathered into one.

    Behind the last block the head reads prefix tokens alone: there all others skip it, whatever the gate says of them.
    """

    def _masked(self, stream: Tensor, part: Branch, mask: Tensor) -> Tensor:
        return part(stream) * mask.unsqueeze(-1)

    def _trained(self, stream: Tensor, part: Branch, mask: Tensor) -> Tensor:
        order, count = _active_first(mask.detach().flatten(), self._nominal(mask))
        rows = stream.reshape(1, -1, stream.shape[-1])
        # Active rows first: autocast keeps the weights it casts, in some releases of torch also those without a graph.
        end = _rounded_up(count, len(order))  # what is masked gets no gradient, with a graph or without
        active = part(rows.index_select(1, order[:end]))
        with torch.no_grad():
            found = active.new_empty(rows.shape)
            found[:, order[end:]] = part(rows.index_select(1, order[end:]))
        # By indexing: index_copy_ and index_add_ would keep the rows for the backward pass.
        found[:, order[:end]] = active
        return found.view(stream.shape) * mask.unsqueeze(-1)

    def _skipped(self, stream: Tensor, part: Branch, mask: Tensor) -> Tensor:
        if self.unread:
            return self._for_the_head(stream, part)
        order, count = _active_first(mask.flatten(), self._nominal(mask))
        if count > DENSE_SHARE * len(order):
            return self._masked(stream, part, mask)
        rows = stream.reshape(1, -1, stream.shape[-1])
        active = part(rows.index_select(1, order[: _rounded_up(count, len(order))]))[:, :count]
        return active.new_zeros(rows.shape).index_copy_(1, order[:count], active).view(stream.shape)

    def _for_the_head(self, stream: Tensor, part: Branch) -> Tensor:
        found = part(stream[:, : self.prefix])
        return F.pad(found, (0, 0, 0, stream.shape[1] - self.prefix))

    def _exported(self, stream: Tensor, part: Branch, mask: Tensor) -> Tensor:
        places = mask.flatten().nonzero().squeeze(1)
        rows = stream.reshape(1, -1, stream.shape[-1])
        active = part(rows.index_select(1, places))
        return active.new_zeros(rows.shape).index_copy_(1, places, active).view(stream.shape)

    def _nominal(self, mask: Tensor) -> int:
        patches = mask[0].numel() - self.prefix
        return len(mask) * (self.prefix + round(self.settings.nominal_rate * patches))


class AttentionDispatch(Dispatch):
    """Tokens skip the attention, as queries, keys and values."""

    def _masked(self, stream: Tensor, part: Branch, mask: Tensor) -> Tensor:
        return part(stream, keys=self._keys(mask)) * mask.unsqueeze(-1)

    def _skipped(self, stream: Tensor, part: Branch, mask: Tensor) -> Tensor:
        gathered = _gathered(stream, mask, self._nominal(mask))
        return self._masked(stream, part, mask) if gathered is None else self._put(stream, part, *gathered)

    def _exported(self, stream: Tensor, part: Branch, mask: Tensor) -> Tensor:
        return self._put(stream, part, *_gathered_untold(stream, mask))

    def _put(self, stream: Tensor, part: Branch, rows: Tensor, places: Tensor, keys: Tensor | None) -> Tensor:
        """The part's value on the gathered rows, where they belong."""
        found = part(rows, keys=keys)
        return found.new_zeros(stream.shape).scatter_(1, places, _valid(found, keys))

    def _nominal(self, mask: Tensor) -> int:
        return self.prefix + round(self.settings.nominal_rate * (mask.shape[1] - self.prefix))


class LayerDispatch(AttentionDispatch):
    """Tokens skip the whole block: `x + m * (F(x) - x)`, attention among active tokens."""

    def _masked(self, stream: Tensor, part: Branch, mask: Tensor) -> Tensor:
        return stream + (part(stream, keys=self._keys(mask)) - stream) * mask.unsqueeze(-1)

    def _put(self, stream: Tensor, part: Branch, rows: Tensor, places: Tensor, keys: Tensor | None) -> Tensor:
        return stream.scatter_add(1, places, _valid(part(rows, keys=keys) - rows, keys))


def _active_first(mask: Tensor, nominal: int) -> tuple[Tensor, int]:
    """Positions of the active entries of a mask (n,), then those of the others, and the number of the active."""
    order = mask.argsort(descending=True, stable=True)
    return order, nominal if _has_no_values(mask) else int(mask.sum())


def _rounded_up(count: int, rows: int) -> int:
    """A number of rows, rounded up to one of few."""
    step = max(1, rows // SIZES)
    return min(-(-count // step) * step, rows)


def _gathered(stream: Tensor, mask: Tensor, nominal: int) -> tuple[Tensor, Tensor, Tensor | None] | None:
    """Active rows (B, n, D), their places (B, n, D), and which of them are no filling (B, n), or None if all are.

    Every image gets the rows of the one with most of them. None where that would save nothing.
    """
    counts = mask.sum(1)
    fewest, most = (nominal, nominal) if _has_no_values(mask) else _range(counts)
    if most > DENSE_SHARE * mask.shape[1]:
        return None
    order = mask.argsort(dim=1, descending=True, stable=True)[:, :most]
    places = order.unsqueeze(-1).expand(-1, -1, stream.shape[-1])
    keys = None
    if fewest < most:
        keys = torch.arange(most, device=mask.device) < counts.unsqueeze(1)
    return stream.gather(1, places), places, keys


def _gathered_untold(stream: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As `_gathered`, always and with keys, for a tracer that does not know how many rows there will be."""
    counts = mask.sum(1)
    # Two rows at least, one of them perhaps filling: some tracers cannot decide whether there is a single one.
    most: Any = counts.max().to(torch.int64).clamp(min=2).item()  # a symbol
    torch._check(most >= 2)
    torch._check(most <= mask.shape[1])
    order = mask.argsort(dim=1, descending=True, stable=True).narrow(1, 0, most)
    places = order.unsqueeze(-1).expand(-1, -1, stream.shape[-1])
    return stream.gather(1, places), places, torch.arange(most, device=mask.device) < counts.unsqueeze(1)


def _range(counts: Tensor) -> tuple[int, int]:
    fewest, most = torch.stack([counts.min(), counts.max()]).tolist()
    return int(fewest), int(most)


def _valid(rows: Tensor, keys: Tensor | None) -> Tensor:
    """Rows with the filling set to zero, whatever was computed for it (an image without active tokens sees no key)."""
    return rows if keys is None else rows.masked_fill(~keys.unsqueeze(-1), 0.0)


def _has_no_values(tensor: Tensor) -> bool:
    """Whether costs are being counted on tensors without memory; they are those of the rate that is aimed at."""
    return isinstance(tensor, FakeTensor) or tensor.is_meta


@contextmanager
def nothing_skipped(layers: Iterable[Dispatch]) -> Iterator[None]:
    """While entered, every token goes through every part."""
    layers = list(layers)
    before = [layer.complete for layer in layers]
    for layer in layers:
        layer.complete = True
    try:
        yield
    finally:
        for layer, value in zip(layers, before, strict=True):
            layer.complete = value


@contextmanager
def computing_all(layers: Iterable[Dispatch]) -> Iterator[None]:
    """While entered, inference computes every token and masks: the same values without the saving."""
    layers = list(layers)
    before = [layer.dense for layer in layers]
    for layer in layers:
        layer.dense = True
    try:
        yield
    finally:
        for layer, value in zip(layers, before, strict=True):
            layer.dense = value


@contextmanager
def recorded(layers: Iterable[Dispatch]) -> Iterator[list[list[Decision]]]:
    """While entered, decisions are noted: per layer, one for every call."""
    layers = list(layers)
    notes: list[list[Decision]] = [[] for _ in layers]
    for layer, note in zip(layers, notes, strict=True):
        layer.record = note
    try:
        yield notes
    finally:
        for layer in layers:
            layer.record = None
