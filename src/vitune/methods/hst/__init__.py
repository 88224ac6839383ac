"""HST: a trainable pyramid beside a frozen ViT, which reads the backbone block by block.

Lin et al., "Hierarchical Side-Tuning for Vision Transformers" (arXiv:2310.05393). Official code: AFeng-x/HST @ ee89571.

Each backbone block k takes M trained meta tokens in front of its tokens; behind it they are dropped, and one linear
layer per stage (the bridge) brings them and the patch map F_k to the stage's width c. A side block then computes
`y += CrossAttn(LN1 y, [LN_k(meta), mean P_k])`, `y += P_k`, `y += MLP(LN2 y)` with `P_k = resize(bridge(F_k))`. Four
stages give maps at strides 4, 8, 16, 32; the classifier reads the mean of the last. The LayerNorms of the backbone's
blocks train.

Where we differ from the released code: stages follow from the depth (its defaults ignore half of a ViT-L), the
classifier has the side network's width whatever the number of classes, the bridge runs before the resize (the same
mathematics), and a batch of one trains (running statistics stand in).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from vitune.anatomy import Anatomy, short_name
from vitune.errors import ConfigError, UnsupportedBackboneError
from vitune.methods._base import Method
from vitune.methods._registry import register
from vitune.methods.hst.edit import KEY, HierarchicalSide, SideHead
from vitune.methods.hst.network import SideNetwork
from vitune.methods.hst.pictures import map_record
from vitune.surgery import Attach, LeaveOut, Step, Train, check_plain_vit

if TYPE_CHECKING:
    from vitune.tuned import Tuned

__all__ = ["HST", "HierarchicalSide", "SideNetwork"]

STAGES = 4


@register
@dataclass(frozen=True, kw_only=True)
class HST(Method):
    """Settings of HST.

    Attributes:
        widths: Channels of the four stages; the paper's dense tasks use 64, 128, 256, 384.
        num_heads: Heads of the side blocks of each stage.
        depths: Backbone blocks that each stage owns, in order; empty: a quarter each.
        meta_tokens: Trained tokens that enter each backbone block.
        mlp_ratio: Of the side blocks.
        qkv_bias: Whether q, k and v of the side blocks have biases.
        drop_path: Rate of the last side block; it rises linearly from 0.
        head_affine: Whether the BatchNorm in front of the classifier has weights.
    """

    name: ClassVar[str] = KEY
    title: ClassVar[str] = "HST, hierarchical side-tuning"
    paper: ClassVar[str] = "arXiv:2310.05393"
    default_lr: ClassVar[float] = 1e-3
    merges: ClassVar[bool] = False
    each_token_alone: ClassVar[bool] = False
    conflicts: ClassVar[Mapping[str, str]] = {
        **Method.conflicts,
        **dict.fromkeys(
            ("ssf", "bitfit"),
            "the other trains the backbone's final norm, which the side network never reads",
        ),
    }

    widths: tuple[int, ...] = (32, 48, 64, 72)
    num_heads: tuple[int, ...] = (2, 4, 8, 12)
    depths: tuple[int, ...] = ()
    meta_tokens: int = 1
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    drop_path: float = 0.0
    head_affine: bool = False

    def __post_init__(self) -> None:
        for setting in ("widths", "num_heads"):
            values = getattr(self, setting)
            self.require(len(values) == STAGES and min(values) >= 1, setting, "four numbers of at least 1")
        for width, heads in zip(self.widths, self.num_heads, strict=True):
            self.require(
                width % heads == 0, "widths", f"divisible by num_heads {self.num_heads} stage by stage"
            )
        fits = not self.depths or (len(self.depths) == STAGES and min(self.depths) >= 1)
        self.require(fits, "depths", "empty or four numbers of at least 1")
        self.require(self.meta_tokens >= 1, "meta_tokens", "at least 1")
        self.require(self.mlp_ratio > 0, "mlp_ratio", "above 0")
        self.require(0 <= self.drop_path < 1, "drop_path", "in [0, 1)")

    @property
    def starts_at_identity(self) -> bool:
        """Never: the classifier reads the side network, which starts at random."""
        return False

    def edits(self, anatomy: Anatomy) -> list[Step]:
        """The side network on the model, its classifier on the head, and the norms of the blocks.

        Raises:
            UnsupportedBackboneError: If the backbone is not a plain ViT with one classification head.
            ConfigError: If `depths` does not cover the blocks.
        """
        check_plain_vit(anatomy.model, self.name)
        if len(anatomy.head) != 1:
            found = "none" if not anatomy.head else "two (class and distillation token)"
            raise UnsupportedBackboneError(f"hst: it needs one classification head, this model has {found}.")
        depths = self._depths(len(anatomy.blocks))
        head = anatomy.model.get_submodule(anatomy.head[0])
        assert isinstance(head, nn.Linear)
        steps: list[Step] = [
            Attach(
                "side", "", HierarchicalSide, _MakeSide(anatomy.width, anatomy.input_size[0], depths, self)
            ),
            Attach("head", anatomy.head[0], SideHead, _MakeHead(self.widths[-1], head.out_features)),
        ]
        steps += [
            LeaveOut(f"head.{n}", f"{anatomy.head[0]}.{n}") for n, _ in head.named_parameters("", False)
        ]
        for norm in (o for o in anatomy.operators if short_name(o.role) in ("norm1", "norm2")):
            module = anatomy.model.get_submodule(norm.path)
            names = [name for name, _ in module.named_parameters("", False)]
            steps += [Train(f"{norm.role}.{name}", f"{norm.path}.{name}") for name in names]
        return steps

    def pictures(self, tuned: Tuned, images: Tensor) -> dict[str, Any]:
        """The maps of the pyramid."""
        model: Any = tuned.model
        with torch.no_grad():
            maps = model.forward_pyramid(images)
        return {"pyramid_maps": map_record(maps, (images.shape[-2], images.shape[-1]))}

    def _depths(self, blocks: int) -> tuple[int, ...]:
        if self.depths and sum(self.depths) != blocks:
            raise ConfigError(
                f"hst: depths={self.depths} covers {sum(self.depths)} blocks, the backbone has {blocks}; "
                f"every block belongs to one stage."
            )
        if blocks < STAGES:
            raise UnsupportedBackboneError(
                f"hst: its four stages need at least four blocks, this model has {blocks}."
            )
        if not self.depths and blocks % STAGES:
            raise ConfigError(
                f"hst: {blocks} blocks do not divide into four stages; say how many each stage owns, for instance "
                f"depths={'+'.join(str(n) for n in _nearly_even(blocks))}."
            )
        return self.depths or (blocks // STAGES,) * STAGES


def _nearly_even(blocks: int) -> list[int]:
    return [(blocks * (s + 1)) // STAGES - (blocks * s) // STAGES for s in range(STAGES)]


@dataclass(frozen=True)
class _MakeSide:
    width: int
    channels: int
    depths: tuple[int, ...]
    config: HST

    def __call__(self) -> SideNetwork:
        c = self.config
        return SideNetwork(
            self.width,
            self.channels,
            c.widths,
            c.num_heads,
            self.depths,
            c.meta_tokens,
            c.mlp_ratio,
            c.qkv_bias,
            c.drop_path,
            c.head_affine,
        )


@dataclass(frozen=True)
class _MakeHead:
    width: int
    classes: int

    def __call__(self) -> nn.Linear:
        head = nn.Linear(self.width, self.classes)
        nn.init.trunc_normal_(head.weight, std=0.02, a=-2.0, b=2.0)
        nn.init.zeros_(head.bias)
        return head
