"""Class-aware importance scores (CAIS): how strongly a channel answers to the images of each class.

With f the activations (B, T, C) of the plain backbone's patch tokens, `n[y, k]` is the L2 norm of channel k over all
images of class y and all their tokens together, and the score of a channel is the mean of n over the classes seen
(arXiv:2309.08513, section 3; showlab/SCT @ 384cecb). The sums of squares are kept in float64, (classes, C) per site,
where the released code keeps all activations.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitune.anatomy import anatomy, logits
from vitune.errors import DataError
from vitune.methods.sct.sites import Site
from vitune.surgery import AttachAtPoint, Step, carry_out, undo

Batches = Iterable[tuple[Tensor, Tensor]]
Visit = Callable[[str, Tensor, Tensor], None]


@dataclass(frozen=True)
class Salience:
    """What the images said about the channels of one site.

    Attributes:
        classes: Labels that were seen, ascending, (Y,).
        norms: n[y, k], (Y, C) in float64.
    """

    classes: Tensor
    norms: Tensor

    @property
    def score(self) -> Tensor:
        """(C,): the mean of the norms over the classes."""
        return self.norms.mean(0)

    def top(self, channels: int) -> Tensor:
        """The channels with the largest scores in ascending order, (K,); of equals the lower channel."""
        order = self.score.sort(descending=True, stable=True).indices
        return order[:channels].sort().values


def class_norms(
    model: nn.Module, sites: Sequence[Site], batches: Batches, steps: Sequence[Step] = ()
) -> dict[str, Salience]:
    """Measure every site in one pass.

    Args:
        model: The backbone; not changed.
        sites: Where.
        batches: Images (B, channels, height, width) and labels (B,).
        steps: Edits that the model carries, to be left out of the measurement.

    Returns:
        Role to its norms; on the CPU.

    Raises:
        DataError: If there is no image.
    """
    squares: dict[str, Tensor] = {}
    counts = torch.zeros(0, dtype=torch.long)
    rows = {site.role: site.rows for site in sites}

    def visit(role: str, features: Tensor, labels: Tensor) -> None:
        nonlocal counts
        known = len(counts)
        features = features[..., rows[role]] if rows[role] is not None else features
        # A matrix product, since an index_add on a GPU adds in no fixed order.
        which = F.one_hot(labels, known).to(_double(features.device))
        own = which.T @ features.to(which.dtype).square().sum(1)
        before = squares.get(role)
        if before is not None:
            own[: len(before)] += before
        squares[role] = own

    def counted() -> Iterable[tuple[Tensor, Tensor]]:
        nonlocal counts
        for images, labels in batches:
            new = torch.bincount(labels.cpu(), minlength=len(counts))
            new[: len(counts)] += counts
            counts = new
            yield images, labels

    visit_features(model, sites, counted(), visit, steps)
    if not counts.sum():
        raise DataError("sct: there is no training image to choose the salient channels by.")
    seen = counts.nonzero()[:, 0]
    return {site.role: Salience(seen, squares[site.role].cpu().double()[seen].sqrt()) for site in sites}


def visit_features(
    model: nn.Module, sites: Sequence[Site], batches: Batches, visit: Visit, steps: Sequence[Step] = ()
) -> None:
    """Run the plain backbone in evaluation mode, without gradients, and show what passes at the sites.

    A forward pass stops after the last site.

    Args:
        model: The backbone; not changed.
        sites: Where.
        batches: Images and labels.
        visit: Is called with a role, the whole tensor of the patch tokens (B, T, C) and the labels (B,).
        steps: Edits that the model carries, to be left out.
    """
    plain = _plain(model, steps)
    found = anatomy(plain)
    device = next(plain.parameters()).device
    tap = _Tap(visit, found.num_prefix_tokens, frozenset(site.role for site in sites))
    with ExitStack() as stack:
        for site in sites:
            _attach(plain, site, tap, stack)
        stack.enter_context(torch.no_grad())
        for images, labels in batches:
            tap.begin(labels.to(device))
            try:
                logits(plain, images.to(device))
            except _AllSeen:
                continue


def _plain(model: nn.Module, steps: Sequence[Step]) -> nn.Module:
    """A copy of the modules over the same tensors, without the edits and in evaluation mode."""
    tensors = [*model.parameters(), *model.buffers()]
    twin = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    undo(twin, steps)
    return twin.eval()


class _AllSeen(Exception):
    """Ends a forward pass of which nothing more is needed."""


class _Tap:
    """Shows tensors to a visitor, each site once per pass."""

    def __init__(self, visit: Visit, prefix_tokens: int, roles: frozenset[str]) -> None:
        self._visit, self._prefix_tokens, self._roles = visit, prefix_tokens, roles
        self._labels = torch.empty(0)
        self._open: set[str] = set()

    def begin(self, labels: Tensor) -> None:
        self._labels, self._open = labels, set(self._roles)

    def __call__(self, role: str, tensor: Tensor) -> None:
        # Windows of one image lie side by side, and maps (B, height, width, C) are rows of tokens.
        tokens = tensor.reshape(len(self._labels), -1, tensor.shape[-1])
        self._visit(role, tokens[:, self._prefix_tokens :], self._labels)
        self._open.discard(role)
        if not self._open:
            raise _AllSeen


class _AtPoint(nn.Module):
    """Shows the tap what passes a point of a block."""

    def __init__(self, role: str, tap: _Tap) -> None:
        super().__init__()
        self.role, self.tap = role, tap

    def forward(self, x: Tensor) -> Tensor:
        """The tensor as it came."""
        self.tap(self.role, x)
        return x


def _attach(plain: nn.Module, site: Site, tap: _Tap, stack: ExitStack) -> None:
    if site.tensor == "middle":
        step = AttachAtPoint(site.role, site.path, "middle", "sct_tap", lambda: _AtPoint(site.role, tap))
        carry_out(plain, [step])  # the copy is thrown away, so nobody takes it off
        return

    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        tap(site.role, output[0] if isinstance(output, tuple) else output)

    stack.callback(plain.get_submodule(site.measured).register_forward_hook(hook).remove)


def _double(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64
