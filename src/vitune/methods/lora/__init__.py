"""LoRA: low-rank updates of linear layers and convolutions, merged away after training.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022 (arXiv:2106.09685). For vision transformers
the default follows JieShibo/PETL-ViT @ 026e4f1: `q += s B_q A_q z`, `v += s B_v A_v z` on the rows of the fused qkv,
dropout between A and B, A kaiming-uniform(a = sqrt 5), B zero, no bias.

Variants: `dropout_at="input"` and `alpha` give the usual LoRA library's form (s = alpha / rank);
`share_down=True` with roles q, k, v gives NOAH's single A (ZhangYuanhan-AI/NOAH @ e9c55f3).

Of a convolution the kernel is updated as a matrix of its output channels (`convolutions`).
"""

from __future__ import annotations

import keyword
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from vitune.anatomy import Anatomy, Kind, Operator, Slot
from vitune.errors import NothingMatchedError, UnsupportedBackboneError
from vitune.methods._base import Method
from vitune.methods._registry import register
from vitune.methods.lora.convolutions import ConvLowRank, ConvLowRankEdit
from vitune.methods.lora.layers import Factors, LowRank, LowRankEdit
from vitune.surgery import Attach, Step, runs_its_kernel

__all__ = ["Factors", "LoRA", "LowRank", "LowRankEdit", "child_name", "slots_by_operator"]


@register
@dataclass(frozen=True, kw_only=True)
class LoRA(Method):
    """Settings of LoRA.

    Attributes:
        rank: Rank of each update.
        scale: Factor s of the update.
        alpha: If given, s = alpha / rank instead.
        roles: Which layers or rows of fused layers, as `vitune show --model NAME` names them, `all-linear` or
            `all-conv`.
        dropout: Probability.
        dropout_at: Where dropout acts: on the `latent` between A and B, or on the `input` of A.
        share_down: One A for all roles of a fused layer.
    """

    name: ClassVar[str] = "lora"
    title: ClassVar[str] = "LoRA"
    paper: ClassVar[str] = "arXiv:2106.09685"
    default_lr: ClassVar[float] = 1e-3
    search_space: ClassVar = {"rank": (2, 4, 8, 16)}
    merges: ClassVar[bool] = True
    reads_text: ClassVar[bool] = True

    rank: int = 8
    scale: float = 1.0
    alpha: float | None = None
    roles: tuple[str, ...] = ("attn.q", "attn.v")
    dropout: float = 0.0
    dropout_at: Literal["latent", "input"] = "latent"
    share_down: bool = False

    def __post_init__(self) -> None:
        self.require(self.rank >= 1, "rank", "at least 1")
        self.require(math.isfinite(self.scale), "scale", "a finite number")
        self.require(self.alpha is None or math.isfinite(self.alpha), "alpha", "a finite number")
        self.require(0 <= self.dropout < 1, "dropout", "in [0, 1)")
        self.require(self.dropout_at in ("latent", "input"), "dropout_at", "'latent' or 'input'")
        self.require(len(self.roles) > 0, "roles", "at least one role")

    @property
    def factor(self) -> float:
        """The factor s."""
        return self.scale if self.alpha is None else self.alpha / self.rank

    def edits(self, anatomy: Anatomy) -> list[Step]:
        """One edit per layer, with one update per role on it.

        Raises:
            NothingMatchedError: If a role matches nothing.
            UnsupportedBackboneError: If a role is no linear layer or convolution, `share_down` meets a layer of one
                role, or dropout of the latent a grouped convolution.
        """
        if self.roles == _USUAL and not any(block.num_heads for block in anatomy.blocks):
            raise NothingMatchedError(
                f"lora: this {anatomy.family} backbone has no attention, whose q and v it adapts unless told "
                f"otherwise; name layers: {_instead(anatomy)}."
            )
        by_operator = slots_by_operator(self, anatomy, self.roles, ("linear", "conv"))
        return [
            self._of_convolution(anatomy, slots[0])
            if slots[0].operator.kind == "conv"
            else self._of_linear(slots)
            for slots in by_operator.values()
        ]

    def _of_linear(self, slots: list[Slot]) -> Attach:
        operator = slots[0].operator
        if self.share_down and len(slots) == 1:
            raise UnsupportedBackboneError(
                f"lora: share_down needs several roles on one fused layer, and '{slots[0].role}' is alone there."
            )
        parts = tuple((slot.role, child_name(slot.role)) for slot in slots)
        return Attach(operator.role, operator.path, LowRankEdit, _Make(operator, tuple(slots), self), parts)

    def _of_convolution(self, anatomy: Anatomy, slot: Slot) -> Attach:
        role, module = slot.role, anatomy.model.get_submodule(slot.operator.path)
        kernel, groups = tuple(module.weight.shape), int(module.groups)  # type: ignore[union-attr, arg-type]
        if self.share_down:
            raise UnsupportedBackboneError(
                f"lora: share_down needs several roles on one fused layer, and '{role}' is alone there."
            )
        if not runs_its_kernel(module):
            raise UnsupportedBackboneError(
                f"lora: '{role}' is a {type(module).__name__}, which makes its kernel anew in each forward pass, so "
                f"that no update can be merged into it; leave this role out."
            )
        if groups > 1 and self.dropout > 0 and self.dropout_at == "latent":
            raise UnsupportedBackboneError(
                f"lora: '{role}' has {groups} groups, where the update is made as a kernel and has no latent to drop; "
                f"set dropout_at=input."
            )
        name = child_name(role)
        make = _MakeConvolution(kernel, groups, name, self)
        return Attach(role, slot.operator.path, ConvLowRankEdit, make, ((role, name),))


_USUAL = ("attn.q", "attn.v")


def _instead(anatomy: Anatomy) -> str:
    """Roles that there are in place of q and v."""
    kinds = {slot.kind for slot in anatomy.operators if slot.role.startswith("blocks.")}
    found = [f"roles=all-{kind}" for kind in ("linear", "conv") if kind in kinds]
    return " or ".join(found)


def slots_by_operator(
    method: Method, anatomy: Anatomy, roles: Sequence[str], kinds: Sequence[Kind] = ("linear",)
) -> dict[str, list[Slot]]:
    """What roles mean for a low-rank method: by the path of each layer, the rows to update.

    Raises:
        UnsupportedBackboneError: If a role is a layer of another kind, or a layer is named whole and in part.
    """
    by_operator: dict[str, list[Slot]] = {}
    for slot in anatomy.find(roles):
        if slot.operator.kind not in kinds:
            what = " and ".join(_KINDS[kind] for kind in kinds) + (" only" if len(kinds) == 1 else "")
            raise UnsupportedBackboneError(
                f"{method.name}: '{slot.role}' is a {slot.operator.kind}; {method.name} adapts {what}."
            )
        by_operator.setdefault(slot.operator.path, []).append(slot)
    for slots in by_operator.values():
        if len(slots) > 1 and any(slot.rows is None for slot in slots):
            raise UnsupportedBackboneError(
                f"{method.name}: the roles name '{slots[0].operator.role}' and rows of it at once; choose one."
            )
    return by_operator


_KINDS: dict[Kind, str] = {"linear": "linear layers", "conv": "convolutions"}


@dataclass(frozen=True)
class _MakeConvolution:
    kernel: tuple[int, ...]
    groups: int
    name: str
    config: LoRA

    def __call__(self) -> ConvLowRank:
        return ConvLowRank(self.kernel, self.groups, self.name, self.config)


@dataclass(frozen=True)
class _Make:
    operator: Operator
    slots: tuple[Slot, ...]
    config: LoRA

    def __call__(self) -> LowRank:
        names = [child_name(slot.role) for slot in self.slots]
        rows = [slot.rows for slot in self.slots]
        return LowRank(self.operator.in_features, self.operator.out_features, names, rows, self.config)


def child_name(role: str) -> str:
    """The last word of a role; torch.export writes children as attributes, where `in` would be Python's own."""
    name = role.rsplit(".", 1)[-1]
    return f"{name}_" if keyword.iskeyword(name) else name
