"""The settings of E2VPT, and where they put prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Tensor

from vitune.anatomy import Anatomy
from vitune.errors import UnsupportedBackboneError
from vitune.methods._base import Method, Policy
from vitune.methods._once import Once
from vitune.methods._registry import register
from vitune.methods.e2vpt.layers import (
    KeyValuePrompts,
    KVStart,
    Layout,
    MakeMaskedPrompts,
    MaskedPrompts,
    Masks,
)
from vitune.methods.e2vpt.pruning import Pruning
from vitune.methods.e2vpt.scores import Per, Sign, TokenScore
from vitune.methods.e2vpt.storage import surviving, whole
from vitune.methods.vpt.layers import Prompts, once_projection, uniform
from vitune.methods.vpt.settings import (
    READS_BLOCKS,
    Staying,
    patch_sides,
    prompt_steps,
    require_average,
    require_windows,
    start_bound,
    swin_bound,
)
from vitune.methods.vpt.swin import FAMILY as SWIN
from vitune.methods.vpt.swin import swin_steps
from vitune.surgery import AttachAtPoint, Step, has_point

if TYPE_CHECKING:
    from vitune.tuned import Tuned

ONE_KIND = "both put prompts of their own in front of the tokens; e2vpt has those of vpt"


@register
@dataclass(frozen=True, kw_only=True)
class E2VPT(Method):
    """Settings of E2VPT.

    Attributes:
        prompts: Number p of visual prompts in a block; 0 for none.
        kv_prompts: Number n of key-value prompts in an attention; 0 for none.
        mode: `deep`: every block has visual prompts of its own; `shallow`: those of the first go through all.
        kv_deep: Whether every attention has key-value prompts, or the first alone.
        share_kv: Whether one tensor serves as keys and values.
        project: Width r of the visual prompts, which one shared linear layer maps to the backbone's; None: no layer.
        dropout: Probability, on the visual prompts of each image.
        masks: `trained`: they train in a first stage, then tokens and segments are pruned and a second stage trains the
            rest; `fixed`: they are part of the adapter and nothing trains them; `none`.
        segments: Number S of segments of a visual prompt.
        segment_layout: `strided`: segment s has every S-th channel; `contiguous`: neighbouring channels.
        prune_tokens: Percentage of the visual prompts to prune; one stays at least.
        prune_segments: Percentage of the segments of every visual prompt to prune; four stay at least.
        score: Scores by magnitude (`abs`, paper) or `signed` (reference's code).
        score_per: Magnitudes per `batch` or per `image`.
        token_score: How a token is scored: `removal`, `segments` or `gradient`.
        rewind: For the second stage everything starts from its own start values (`init`) or from new ones (`reinit`).
        kv_start: Start of the key-value prompts: `kaiming`, `uniform` or `normal`.
        pool_prompts: As for VPT: whether an average over patches includes the prompts of the last block.
        mix_windows: In a Swin, as for VPT: the released code's order of prompts in windows, an error.
    """

    name: ClassVar[str] = "e2vpt"
    title: ClassVar[str] = "E2VPT"
    paper: ClassVar[str] = "arXiv:2307.13770"
    default_lr: ClassVar[float] = 1e-3
    search_space: ClassVar = {"prompts": (5, 10, 20, 50)}
    merges: ClassVar[bool] = False
    conflicts: ClassVar[Mapping[str, str]] = {**Method.conflicts, "vpt": ONE_KIND, "hst": READS_BLOCKS}

    prompts: int = 10
    kv_prompts: int = 5
    mode: Literal["deep", "shallow"] = "deep"
    kv_deep: bool = True
    share_kv: bool = True
    project: int | None = None
    dropout: float = 0.1
    masks: Literal["trained", "fixed", "none"] = "trained"
    segments: int = 16
    segment_layout: Layout = "strided"
    prune_tokens: int = 50
    prune_segments: int = 50
    score: Sign = "abs"
    score_per: Per = "batch"
    token_score: TokenScore = "removal"
    rewind: Literal["init", "reinit"] = "init"
    kv_start: KVStart = "kaiming"
    pool_prompts: bool = False
    mix_windows: bool = False

    def __post_init__(self) -> None:
        self.require(self.prompts >= 0, "prompts", "at least 0")
        self.require(self.kv_prompts >= 0, "kv_prompts", "at least 0")
        self.require(self.prompts + self.kv_prompts > 0, "prompts", "at least 1 where kv_prompts is 0")
        self.require(self.mode in ("deep", "shallow"), "mode", "'deep' or 'shallow'")
        self.require(self.project is None or self.project >= 1, "project", "at least 1 or none")
        self.require(0 <= self.dropout < 1, "dropout", "in [0, 1)")
        self.require(self.masks in ("trained", "fixed", "none"), "masks", "'trained', 'fixed' or 'none'")
        self.require(self.segments >= 1, "segments", "at least 1")
        self.require(
            self.segment_layout in ("strided", "contiguous"), "segment_layout", "'strided' or 'contiguous'"
        )
        self.require(0 <= self.prune_tokens < 100, "prune_tokens", "a percentage in [0, 100)")
        self.require(0 <= self.prune_segments < 100, "prune_segments", "a percentage in [0, 100)")
        self.require(self.score in ("abs", "signed"), "score", "'abs' or 'signed'")
        self.require(self.score_per in ("batch", "image"), "score_per", "'batch' or 'image'")
        self.require(
            self.token_score in ("removal", "segments", "gradient"),
            "token_score",
            "'removal', 'segments' or 'gradient'",
        )
        self.require(self.rewind in ("init", "reinit"), "rewind", "'init' or 'reinit'")
        self.require(
            self.kv_start in ("kaiming", "uniform", "normal"), "kv_start", "'kaiming', 'uniform' or 'normal'"
        )

    @property
    def starts_at_identity(self) -> bool:
        """Never: prompts are attended to from the start."""
        return False

    def policy(self, tuned: Tuned) -> Policy | None:
        """Pruning between two stages, where masks train."""
        return Pruning(tuned, self) if self.masks == "trained" and self.prompts else None

    def pictures(self, tuned: Tuned, images: Tensor) -> dict[str, Any]:
        """The scores of prompts and segments, and what was pruned."""
        found = next((p.picture_record() for p in tuned.policies if isinstance(p, Pruning)), None)
        return {} if found is None else {"pruned_prompts": found}

    def stored(self, tuned: Tuned, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Without the values that are pruned."""
        return surviving(tuned, tensors)

    def restored(self, tuned: Tuned, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """With zeros for the values that are pruned."""
        return whole(tuned, tensors)

    def edits(self, anatomy: Anatomy) -> list[Step]:
        """Visual prompts at the blocks, key-value prompts in the attentions.

        Raises:
            UnsupportedBackboneError: If a block or its attention takes no prompts, or the segments do not divide
                the width.
        """
        return [
            *(self._visual(anatomy) if self.prompts else []),
            *(self._kv(anatomy) if self.kv_prompts else []),
        ]

    def _visual(self, anatomy: Anatomy) -> list[Step]:
        width = anatomy.blocks[0].width  # in a Swin the masks act on the prompts of the first block alone
        if self.masks != "none" and width % self.segments:
            raise UnsupportedBackboneError(
                f"e2vpt: segments={self.segments} does not divide the width {width} of this backbone."
            )
        shallow = self.mode == "shallow"
        if anatomy.family == SWIN:
            return self._in_swin(anatomy, shallow)
        require_windows(anatomy, self.name, self.mix_windows)
        if self.pool_prompts:
            require_average(anatomy, self.name)
        chosen = anatomy.blocks[:1] if shallow else anatomy.blocks
        shape = (self.prompts, self.project or anatomy.width)
        make = MakeMaskedPrompts(
            shape,
            start_bound(anatomy, shape[1]),
            self.dropout,
            anatomy.num_prefix_tokens,
            project=once_projection(self.project, anatomy.width, len(chosen)) if self.project else None,
            masks=Once(
                partial(Masks, self.prompts, self.segments, self.segment_layout, self.masks == "trained"),
                len(chosen),
            )
            if self.masks != "none"
            else None,
            foldable=not (shallow or self.pool_prompts),
        )
        staying = Staying(shallow or self.pool_prompts, self.pool_prompts)
        return prompt_steps(anatomy, self.name, chosen, make, staying, self.prompts)

    def _in_swin(self, anatomy: Anatomy, shallow: bool) -> list[Step]:
        if self.project:
            raise UnsupportedBackboneError(
                "e2vpt: project is not defined for a Swin, whose stages differ in width; leave it out."
            )
        masks = None
        if self.masks != "none":
            masks = partial(Masks, self.prompts, self.segments, self.segment_layout, self.masks == "trained")
        make = partial(_swin_prompts, self.prompts, swin_bound(anatomy), self.dropout, masks)
        return swin_steps(anatomy, self.name, self.prompts, make, shallow=shallow, mixed=self.mix_windows)

    def _kv(self, anatomy: Anatomy) -> list[Step]:
        height, width = patch_sides(anatomy)
        steps: list[Step] = []
        for block in anatomy.blocks if self.kv_deep else anatomy.blocks[:1]:
            attention = anatomy.model.get_submodule(block.attention) if block.attention else None
            if attention is None or not has_point(attention, "attn.kv"):
                raise UnsupportedBackboneError(
                    f"e2vpt: the attention of a {anatomy.family} backbone takes no further keys and values; "
                    f"with kv_prompts=0 the visual prompts remain."
                )
            make = partial(
                KeyValuePrompts,
                block.num_heads,
                self.kv_prompts,
                block.width // block.num_heads,
                shared=self.share_kv,
                start=self.kv_start,
                patch=height * width,
            )
            role = f"blocks.{block.index}.attn.kv"
            steps.append(AttachAtPoint(role, block.attention, "attn.kv", self.name, make))
        return steps


def _swin_prompts(
    prompts: int,
    bound: float,
    dropout: float,
    masks: Callable[[], Masks] | None,
    index: int,
    width: int,
    kind: type[Prompts],
) -> Prompts:
    """The prompts of a block of a Swin; masks hurt beyond the first one (reference's authors)."""
    values = uniform((prompts, width), bound)
    if index or masks is None:
        return kind(values, dropout, 0)
    return MaskedPrompts(values, dropout, 0, masks=masks())
