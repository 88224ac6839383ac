"""SCT: a small linear map on the most salient channels of every block.

Zhao, Wang, Zhao, Luo, Wang, Shou, "SCT: A Simple Baseline for Parameter-Efficient Fine-Tuning via Salient Channels",
IJCV 2023 (arXiv:2309.08513). Official code: showlab/SCT @ 384cecb.

`u = x[..., S]`, `v = W u + b`; `x[..., S] <- u + c v` (scale on the branch) or `c u + v` (scale on the input). S are
the K channels with the largest class-aware activation norms over the training images: see `salience`.

Where we differ: the released ViT code ignores c, which is our default c = 1 on the branch; ties and K = C, where the
released selection crashes, are decided by exact top-K; the indices are saved with the adapter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Tensor

from vitune.anatomy import Anatomy
from vitune.errors import UnsupportedBackboneError
from vitune.methods._base import Method, Policy
from vitune.methods._registry import register
from vitune.methods.sct.layers import SalientEdit, SalientLinear, SalientRows
from vitune.methods.sct.selection import ChooseChannels, picture_record
from vitune.methods.sct.sites import Site, sites
from vitune.surgery import Attach, AttachAtPoint, Step

if TYPE_CHECKING:
    from vitune.tuned import Tuned


@register
@dataclass(frozen=True, kw_only=True)
class SCT(Method):
    """Settings of SCT.

    Attributes:
        channels: Number K of salient channels per map.
        mode: Where the map acts: `attn`, on the residual stream after attention; `mlp`, on the output of the MLP;
            `qkv`, one map on the queries and one on the values.
        scale: Factor c, a constant; 1 in mode `qkv`.
        scale_on: Whether c multiplies the map (`branch`) or the channels that it reads (`input`).
        score_where_it_acts: Score the MLP's output in mode `mlp`; the released code scores the block's output.
        blocks: Numbers of the blocks; empty: all, or in a backbone of several stages the last half of the last stage
            but one and all of the last.
    """

    name: ClassVar[str] = "sct"
    title: ClassVar[str] = "SCT, salient channel tuning"
    paper: ClassVar[str] = "arXiv:2309.08513"
    default_lr: ClassVar[float] = 6e-3
    search_space: ClassVar = {"channels": (24, 48, 96)}
    merges: ClassVar[bool] = False  # of the default mode; an instance says it of its own

    channels: int = 96
    mode: Literal["attn", "mlp", "qkv"] = "attn"
    scale: float = 1.0
    scale_on: Literal["branch", "input"] = "branch"
    score_where_it_acts: bool = False
    blocks: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        self.require(self.channels >= 1, "channels", "at least 1")
        self.require(self.mode in ("attn", "mlp", "qkv"), "mode", "'attn', 'mlp' or 'qkv'")
        self.require(math.isfinite(self.scale) and self.scale != 0, "scale", "a finite number other than 0")
        self.require(self.scale_on in ("branch", "input"), "scale_on", "'branch' or 'input'")
        self.require(self.mode != "qkv" or self.scale == 1, "scale", "1 with mode=qkv, which has no factor")
        self.require(
            self.mode == "mlp" or not self.score_where_it_acts,
            "score_where_it_acts",
            "false except with mode=mlp, since the other modes do so anyway",
        )
        # A map on the residual stream is on the shortcut too and in front of a LayerNorm: nothing can take it up.
        object.__setattr__(self, "merges", self.mode != "attn")

    @property
    def starts_at_identity(self) -> bool:
        """Never: W starts at random."""
        return False

    def edits(self, anatomy: Anatomy) -> list[Step]:
        """One map per site; those on rows of one layer share an edit.

        Raises:
            NothingMatchedError: If there is no block of a given number.
            UnsupportedBackboneError: If a block lacks the place, or has fewer channels than are wanted.
        """
        found = sites(anatomy, self)
        for site in found:
            if site.width < self.channels:
                raise UnsupportedBackboneError(
                    f"sct: channels is {self.channels} and '{site.role}' has {site.width}; "
                    f"choose {site.width} or fewer."
                )
        if self.mode == "attn":
            return [
                AttachAtPoint(site.role, site.path, "middle", self.name, _MakeMap(self)) for site in found
            ]
        by_path: dict[str, list[Site]] = {}
        for site in found:
            by_path.setdefault(site.path, []).append(site)
        return [_attach(group, self) for group in by_path.values()]

    def policy(self, tuned: Tuned) -> Policy:
        """Chooses the channels before the first step."""
        return ChooseChannels(tuned, self)

    def pictures(self, tuned: Tuned, images: Tensor) -> dict[str, Any]:
        """The scores of all channels, and which were chosen."""
        found = picture_record(tuned)
        return {} if found is None else {"channel_scores": found}


def _attach(group: list[Site], config: SCT) -> Attach:
    first = group[0]
    if config.mode == "mlp":
        return Attach(first.role, first.path, SalientEdit, _MakeMap(config))
    parts = tuple((site.role, site.role.rsplit(".", 1)[-1]) for site in group)
    starts = tuple(0 if site.rows is None else site.rows.start for site in group)
    make = _MakeRows(tuple(child for _, child in parts), starts, config)
    return Attach(first.operator_role, first.path, SalientEdit, make, parts)


@dataclass(frozen=True)
class _MakeMap:
    config: SCT

    def __call__(self) -> SalientLinear:
        return SalientLinear(self.config.channels, self.config.scale, self.config.scale_on == "input")


@dataclass(frozen=True)
class _MakeRows:
    names: tuple[str, ...]
    starts: tuple[int, ...]
    config: SCT

    def __call__(self) -> SalientRows:
        return SalientRows({n: _MakeMap(self.config)() for n in self.names}, self.starts)
