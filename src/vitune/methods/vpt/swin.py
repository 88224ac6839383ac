"""Prompts in a Swin: in front of the tokens of every window, pooled with the patches.

Where prompts go on after a block (shallow ones, and those of the last block, which the average at the end includes)
they lie in further rows of the map, below the patches, and every image keeps its own. The reference lays windows out
batch first and prompts window first, which mixes the prompts of a batch's images: done here only when asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitune.anatomy import Anatomy
from vitune.errors import UnsupportedBackboneError
from vitune.methods.vpt.layers import Prompts, require_context
from vitune.surgery import CONTEXT, ROWS, Attach, AttachAtPoint, Edit, Step

FAMILY = "timm-swin"


def below(x: Tensor, rows: Tensor) -> Tensor:
    """A map (B, height, width, D) with prompts (B, p, D) in as many further rows as they need."""
    width = x.shape[2]
    filled = F.pad(rows, (0, 0, 0, -rows.shape[1] % width))
    return torch.cat([x, filled.unflatten(1, (-1, width))], dim=1)


def apart(x: Tensor, prompts: int) -> tuple[Tensor, Tensor]:
    """The map and the prompts that `below` put together."""
    height = x.shape[1] - -(-prompts // x.shape[2])
    return x[:, :height], x[:, height:].flatten(1, 2)[:, :prompts]


class BlockPrompts(Prompts):
    """The prompts of a block, forgotten after it; dropout is drawn once for a batch, as in the reference."""

    def rows(self, batch: int) -> Tensor:
        """(1, p, D)."""
        return super().rows(1)


class Carry(nn.Module):
    """Takes prompts that an earlier block had through a block.

    Args:
        prompts: Their number.
        mixed: Whether windows get them in the reference's order.
    """

    def __init__(self, prompts: int, mixed: bool) -> None:
        super().__init__()
        self.prompts, self.mixed = prompts, mixed

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The map of patches, and the prompts (B, p, D)."""
        return apart(x, self.prompts)

    def join(self, x: Tensor, rows: Tensor) -> Tensor:
        """Both in one map."""
        return below(x, rows)


class Enter(nn.Module):
    """Prompts that enter at a block and stay.

    Args:
        prompts: The prompts.
        mixed: Whether windows get them in the reference's order.
    """

    def __init__(self, prompts: Prompts, mixed: bool) -> None:
        super().__init__()
        self.own, self.mixed = prompts, mixed

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The map as it is, and the prompts (B, p, D)."""
        return x, self.own.rows(x.shape[0]).to(x.dtype).expand(x.shape[0], -1, -1)

    def join(self, x: Tensor, rows: Tensor) -> Tensor:
        """Both in one map."""
        return below(x, rows)


class Count(nn.Module):
    """What the edits below must know.

    Args:
        prompts: Number of prompts in a map.
        everywhere: Whether the maps of all stages hold them, or the last alone.
    """

    def __init__(self, prompts: int, everywhere: bool) -> None:
        super().__init__()
        self.prompts, self.everywhere = prompts, everywhere


class MergePrompts(Edit):
    """Patch merging: a prompt beside itself, four times, takes the place of four patches."""

    key = "vpt_merge"

    def forward(self: Any, x: Tensor) -> Tensor:
        """(B, height, width, D) with prompts to half the size with prompts."""
        x, rows = apart(x, self.vitune.vpt_merge.prompts)
        return below(super().forward(x), self.reduction(self.norm(rows.repeat(1, 1, 4))))


class PoolPrompts(Edit):
    """Average pooling over patches and prompts."""

    key = "vpt_pool"

    def forward(self: Any, x: Tensor) -> Tensor:
        """(B, height, width, D) with prompts to (B, D)."""
        x, rows = apart(x, self.vitune.vpt_pool.prompts)
        return torch.cat([x.flatten(1, 2), rows], dim=1).mean(dim=1)


class CleanMaps(Edit):
    """timm's `forward_intermediates` without prompts; the final map keeps them for the pooling."""

    key = "vpt_taps"

    def forward_intermediates(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """As timm's, of the same arguments."""
        count: Count = self.vitune.vpt_taps
        found = super().forward_intermediates(x, *args, **kwargs)  # type: ignore[misc]
        final, maps = found if isinstance(found, tuple) else (None, found)
        maps = [
            apart(m.permute(0, 2, 3, 1), count.prompts)[0].permute(0, 3, 1, 2).contiguous()
            if count.everywhere or m.shape[1] == self.num_features
            else m
            for m in maps
        ]
        return maps if final is None else (final, maps)


def swin_steps(
    anatomy: Anatomy,
    name: str,
    prompts: int,
    make: Callable[[int, int, type[Prompts]], Prompts],
    *,
    shallow: bool,
    mixed: bool,
) -> list[Step]:
    """Steps that give the blocks of a Swin their prompts.

    Args:
        anatomy: The backbone.
        name: Of the method.
        prompts: Number p of prompts.
        make: Makes the prompts of a block from its number, its width and their class.
        shallow: Whether those of the first block go through all.
        mixed: Whether windows get those that go on in the reference's order.

    Raises:
        UnsupportedBackboneError: If the blocks take no further tokens (Swin v2), or the patches are not averaged.
    """
    require_context(anatomy, name, anatomy.blocks)
    if anatomy.pooling != "avg":
        raise UnsupportedBackboneError(
            f"{name}: prompts in a Swin are averaged with the patches, and this one pools by '{anatomy.pooling}'."
        )
    blocks = anatomy.blocks
    entering = 0 if shallow else len(blocks) - 1
    steps: list[Step] = []
    for block in blocks:
        i, path = block.index, block.path
        if i == entering:
            kind = Prompts if i == 0 else BlockPrompts
            layer = partial(_entering, partial(make, i, block.width, kind), mixed)
            steps.append(AttachAtPoint(f"blocks.{i}.{ROWS}", path, ROWS, name, layer))
        elif shallow:
            steps.append(
                AttachAtPoint(f"blocks.{i}.{ROWS}", path, ROWS, name, partial(Carry, prompts, mixed))
            )
        else:
            kind = Prompts if i == 0 else BlockPrompts
            layer = partial(make, i, block.width, kind)
            steps.append(AttachAtPoint(f"blocks.{i}.{CONTEXT}", path, CONTEXT, name, layer))
    count = partial(Count, prompts, shallow)
    if shallow:
        for stage in sorted({block.stage for block in blocks} - {0}):
            steps.append(Attach(f"downsample.{stage}", f"layers.{stage}.downsample", MergePrompts, count))
    steps.append(Attach("pool", "head.global_pool", PoolPrompts, count))
    return [*steps, Attach("taps", "", CleanMaps, count)]


def _entering(make: Callable[[], Prompts], mixed: bool) -> Enter:
    return Enter(make(), mixed)
