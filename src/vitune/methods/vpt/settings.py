"""The settings of VPT, and where they put prompts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

from vitune.anatomy import Anatomy, Block
from vitune.errors import ConfigError, UnsupportedBackboneError
from vitune.methods._base import Method
from vitune.methods._registry import register
from vitune.methods.vpt.layers import (
    Leave,
    MakePrompts,
    Prompts,
    once_projection,
    once_uniform,
    require_context,
    uniform,
)
from vitune.methods.vpt.swin import FAMILY as SWIN
from vitune.methods.vpt.swin import swin_steps
from vitune.methods.vpt.taps import CleanTaps, Taps
from vitune.surgery import CONTEXT, Attach, AttachAtPoint, MakeLayer, Step

READS_BLOCKS = "a side network reads the blocks' outputs, in which prompts may stand among the patches"
# Families whose blocks take a sequence of any length, without positions of their own.
ANY_LENGTH = ("timm-vit", "hf-vit", "hf-deit", "hf-dinov2", "hf-clip", "hf-siglip")


@register
@dataclass(frozen=True, kw_only=True)
class VPT(Method):
    """Settings of VPT.

    Attributes:
        prompts: Number p of prompts in a block.
        mode: `deep`: every prompted block has prompts of its own; `shallow`: those of the first block go through all.
        layers: With `deep`, how many blocks have prompts; 0 for all.
        side: With `deep` and `layers`, whether these are the `first` or the `last` blocks.
        evolve: With `deep` and the first `layers`, whether the prompts of the last of them go through the blocks that
            follow, as shallow ones do, or are dropped.
        share: With `deep`, one set of prompts for all blocks.
        project: Width r of the prompts, which one shared linear layer maps to the backbone's; None: no layer.
        dropout: Probability, on the prompts of each image; None: the released runs' 0.1 with `deep`, 0 with `shallow`.
        pool_prompts: Where patches are averaged, whether the prompts of the last block are averaged with them, as the
            released code does for MAE; in a Swin they always are.
        mix_windows: In a Swin, prompts that go on get into the windows in the order of the released code, which mixes
            those of a batch's images: only to reproduce what it computes.
    """

    name: ClassVar[str] = "vpt"
    title: ClassVar[str] = "VPT"
    paper: ClassVar[str] = "arXiv:2203.12119"
    default_lr: ClassVar[float] = 1e-3
    search_space: ClassVar = {"prompts": (1, 5, 10, 50)}
    merges: ClassVar[bool] = False
    conflicts: ClassVar[Mapping[str, str]] = {**Method.conflicts, "hst": READS_BLOCKS}

    prompts: int = 10
    mode: Literal["deep", "shallow"] = "deep"
    layers: int = 0
    side: Literal["first", "last"] = "first"
    evolve: bool = True
    share: bool = False
    project: int | None = None
    dropout: float | None = None
    pool_prompts: bool = False
    mix_windows: bool = False

    def __post_init__(self) -> None:
        self.require(self.prompts >= 1, "prompts", "at least 1")
        self.require(self.mode in ("deep", "shallow"), "mode", "'deep' or 'shallow'")
        self.require(self.layers >= 0, "layers", "at least 0")
        self.require(self.side in ("first", "last"), "side", "'first' or 'last'")
        self.require(self.project is None or self.project >= 1, "project", "at least 1 or none")
        self.require(self.dropout is None or 0 <= self.dropout < 1, "dropout", "in [0, 1)")
        if self.mode == "shallow" and (self.layers or self.share):
            setting = "layers" if self.layers else "share"
            raise ConfigError(f"vpt: {setting} belongs to mode=deep; shallow prompts are those of one block.")
        if self.pool_prompts and self.layers and not self.evolve:
            raise ConfigError(
                "vpt: pool_prompts needs prompts in the last block, and evolve=false drops them before."
            )

    @property
    def rate(self) -> float:
        """Probability of the dropout."""
        if self.dropout is None:
            return 0.1 if self.mode == "deep" else 0.0
        return self.dropout

    @property
    def starts_at_identity(self) -> bool:
        """Never: prompts are attended to from the start."""
        return False

    def edits(self, anatomy: Anatomy) -> list[Step]:
        """Prompts at the blocks.

        Raises:
            UnsupportedBackboneError: If the blocks take no further tokens, or there are fewer than `layers`.
        """
        if anatomy.family == SWIN:
            return self._in_swin(anatomy)
        require_windows(anatomy, self.name, self.mix_windows)
        if self.pool_prompts:
            require_average(anatomy, self.name)
        chosen, evolving = self._placement(anatomy)
        shape = (self.prompts, self.project or anatomy.width)
        bound = start_bound(anatomy, shape[1])
        make = MakePrompts(
            shape,
            bound,
            self.rate,
            anatomy.num_prefix_tokens,
            once_uniform(shape, bound, len(chosen)) if self.share else None,
            once_projection(self.project, anatomy.width, len(chosen)) if self.project else None,
        )
        staying = Staying(evolving or self.pool_prompts, self.pool_prompts)
        return prompt_steps(anatomy, self.name, chosen, make, staying, self.prompts)

    def _in_swin(self, anatomy: Anatomy) -> list[Step]:
        for setting, value in (("project", self.project), ("layers", self.layers), ("share", self.share)):
            if value:
                raise UnsupportedBackboneError(
                    f"vpt: {setting} is not defined for a Swin, whose stages differ in width; leave it out."
                )
        make = partial(swin_prompts, self.prompts, swin_bound(anatomy), self.rate)
        return swin_steps(
            anatomy, self.name, self.prompts, make, shallow=self.mode == "shallow", mixed=self.mix_windows
        )

    def _placement(self, anatomy: Anatomy) -> tuple[list[Block], bool]:
        """The prompted blocks, and whether the last one's prompts stay in the sequence."""
        blocks = anatomy.blocks
        if self.layers > len(blocks):
            raise UnsupportedBackboneError(
                f"vpt: layers={self.layers}, but this {anatomy.family} backbone has {len(blocks)} blocks."
            )
        if self.mode == "shallow":
            return [blocks[0]], True
        count = self.layers or len(blocks)
        if self.side == "last":
            return list(blocks[len(blocks) - count :]), False
        return list(blocks[:count]), self.evolve and count < len(blocks)


def start_bound(anatomy: Anatomy, width: int) -> float:
    """Bound v of the uniform start of prompts of a width; P is the side of a patch: v = sqrt(6 / (3 P P + d))."""
    height, side = patch_sides(anatomy)
    return math.sqrt(6 / (3 * height * side + width))


def require_windows(anatomy: Anatomy, name: str, mix_windows: bool) -> None:
    """Make sure that `mix_windows` has windows to act on.

    Raises:
        UnsupportedBackboneError: If it is asked for and there are none.
    """
    if mix_windows:
        raise UnsupportedBackboneError(
            f"{name}: mix_windows belongs to the windows of a Swin, and this is a {anatomy.family} backbone; leave it "
            f"out."
        )


def require_average(anatomy: Anatomy, name: str) -> None:
    """Make sure that `pool_prompts` has an average to act on.

    Raises:
        UnsupportedBackboneError: If the patches are not averaged, or not in a way that further tokens join.
    """
    if anatomy.pooling != "avg" or anatomy.family != "timm-vit":
        raise UnsupportedBackboneError(
            f"{name}: pool_prompts belongs to a timm ViT that averages its patches, and this is a {anatomy.family} "
            f"backbone with pooling '{anatomy.pooling}'; leave it out."
        )


def swin_bound(anatomy: Anatomy) -> float:
    """The bound in all stages of a Swin: that of the first one's width, as in the reference."""
    return start_bound(anatomy, anatomy.blocks[0].width)


def swin_prompts(
    prompts: int, bound: float, dropout: float, index: int, width: int, kind: type[Prompts]
) -> Prompts:
    """The prompts of a block of a Swin."""
    return kind(uniform((prompts, width), bound), dropout, 0)


def patch_sides(anatomy: Anatomy) -> tuple[int, int]:
    """Height and width of a patch in pixels."""
    return anatomy.input_size[1] // anatomy.grid[0], anatomy.input_size[2] // anatomy.grid[1]


@dataclass(frozen=True)
class Staying:
    """What becomes of the prompts of the last prompted block.

    Attributes:
        evolving: Whether they stay in the sequence through the blocks that follow.
        pooled: Whether they stay behind the last block too.
    """

    evolving: bool
    pooled: bool = False


def prompt_steps(
    anatomy: Anatomy, name: str, chosen: Sequence[Block], make: MakeLayer, staying: Staying, prompts: int
) -> list[Step]:
    """Steps that give blocks their prompts.

    Args:
        anatomy: The backbone.
        name: Of the method.
        chosen: The prompted blocks.
        make: Makes the prompts of a block.
        staying: What becomes of those of the last prompted block.
        prompts: Number p of prompts.

    Raises:
        UnsupportedBackboneError: If a block takes no further tokens.
    """
    require_context(anatomy, name, chosen)
    kept = chosen[:-1] if staying.evolving else chosen
    steps: list[Step] = [
        AttachAtPoint(f"blocks.{b.index}.{CONTEXT}", b.path, CONTEXT, name, make) for b in kept
    ]
    if staying.evolving:
        steps += _through(anatomy, name, chosen[-1], make, prompts, pooled=staying.pooled)
    return steps


def _through(
    anatomy: Anatomy, name: str, first: Block, make: MakeLayer, prompts: int, *, pooled: bool
) -> list[Step]:
    """Steps for prompts that enter the sequence in front of a block and leave it behind the last one, if at all."""
    if anatomy.family not in ANY_LENGTH:
        raise UnsupportedBackboneError(
            f"{name}: prompts that pass through blocks would shift the positions of the patches in a "
            f"{anatomy.family} backbone; use mode=deep for all blocks."
        )
    last, prefix = anatomy.blocks[-1], anatomy.num_prefix_tokens
    steps: list[Step] = [AttachAtPoint(f"blocks.{first.index}.around", first.path, "around", name, make)]
    if not pooled:
        leave = partial(Leave, prompts, prefix)
        steps.append(AttachAtPoint(f"blocks.{last.index}.output", last.path, "output", name, leave))
    if hasattr(anatomy.model, "forward_intermediates"):
        steps.append(Attach("taps", "", CleanTaps, partial(Taps, prompts, prefix, pooled)))
    return steps
