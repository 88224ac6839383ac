"""VeLoRA: of a layer's input only rank-1 projections of its sub-tokens are kept for the backward.

Miles, Reddy, Elezi, Deng, "VeLoRA: Memory Efficient Training using Rank-1 Sub-Token Projections", NeurIPS 2024
(arXiv:2405.17991, sections 3.1 and 3.2). Official code: roymiles/VeLoRA @ a6415bc; a later form for LoRA in
huggingface/peft.

Output and input gradient stay exact; the weight's gradient is grad_W P with P = blockdiag(v v^T). VeLoRA trains nothing
itself: it compresses what the other methods train (A of LoRA, scales of SSF, the down projection of an adapter), alone
the MLP's second layer under full fine-tuning.

Where we differ: the setting of the groups is honoured everywhere; projections stay in the precision of the computation
(`half=true` gives the released float16); weight gradients never have a batch axis; a zero mean direction gives the
constant vector and a warning, as in peft, where the release stops learning.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from vitune.anatomy import Anatomy, Operator, short_name
from vitune.errors import UnsupportedBackboneError
from vitune.methods._base import Method
from vitune.methods._registry import register
from vitune.methods.ssf.pairs import ScaleShiftNormEdit
from vitune.methods.velora.direction import INITS, Compression, Direction, Init
from vitune.methods.velora.edits import (
    VeloraDownEdit,
    VeloraEdit,
    VeloraLinearEdit,
    VeloraOutputEdit,
    VeloraScaleShiftEdit,
)
from vitune.methods.velora.linears import compress_linears, restore_linears
from vitune.methods.velora.saving import saved_elements
from vitune.surgery import Attach, AttachAtPoint, Step, Train, layer_path

__all__ = ["Compression", "VeLoRA", "compress_linears", "restore_linears", "saved_elements"]

# Where the methods that are not named here have nothing that VeLoRA knows how to compress.
_SSF_ROLES = ("attn.qkv", "attn.q", "attn.k", "attn.v", "mlp.in", "mlp.in_gate")
_DOWN = {"adapter": "down", "adaptformer": "down"}


@register
@dataclass(frozen=True, kw_only=True)
class VeLoRA(Method):
    """Settings of VeLoRA.

    Attributes:
        roles: Layers whose input is compressed, as `vitune show --model NAME` names them. Empty: A of every LoRA, the
            pairs of SSF behind qkv and the MLP's first layer, the down projections of adapters; under full fine-tuning
            the MLP's second layer.
        sub_token_size: Size M of a sub-token; a layer with fewer features has one sub-token.
        num_groups: If given, sub-tokens per token G in place of M; the last one is filled up where G does not divide.
        init: Where v comes from: `batch_average_once`, the first training batch's mean sub-token; `batch_average`,
            every batch's; `ema`, a running average; `uniform` or `random` (normal) numbers that never change.
        ema_decay: Share of the old vector in the running average.
        scale: Factor on the compressed weight gradients; Adam hardly feels it.
        half: Compute and keep the projections in float16, as the release does.
    """

    name: ClassVar[str] = "velora"
    title: ClassVar[str] = "VeLoRA"
    paper: ClassVar[str] = "arXiv:2405.17991"
    default_lr: ClassVar[float] = 1e-4
    merges: ClassVar[bool] = True
    acts_on_others: ClassVar[bool] = True
    reads_text: ClassVar[bool] = True
    conflicts: ClassVar[dict[str, str]] = {
        "linear": "a linear probe trains no layer whose input could be compressed",
        "bitfit": "the gradient of a bias needs no input, so that there is nothing to compress",
        **dict.fromkeys(("vpt", "e2vpt"), "prompts have no linear layer whose input could be compressed"),
        **dict.fromkeys(
            ("bi_lora", "bi_adaptformer"), "the weights that it would act on are themselves quantised"
        ),
        "sct": "salient channels are few, so that there is next to nothing to compress",
        "spt": "the gradients of single entries need the exact input",
        "dyt": "its adapters read the residual stream, which the norm keeps anyway",
        "hst": "the side network's layers are small, so that there is next to nothing to compress",
    }

    roles: tuple[str, ...] = ()
    sub_token_size: int = 32
    num_groups: int | None = None
    init: Init = "batch_average_once"
    ema_decay: float = 0.99
    scale: float = 1.0
    half: bool = False

    def __post_init__(self) -> None:
        self.require(self.sub_token_size >= 1, "sub_token_size", "at least 1")
        self.require(self.num_groups is None or self.num_groups >= 1, "num_groups", "at least 1")
        self.require(self.init in INITS, "init", f"one of {', '.join(INITS)}")
        self.require(0 <= self.ema_decay < 1, "ema_decay", "in [0, 1)")
        self.require(math.isfinite(self.scale), "scale", "a finite number")

    def compression(self, features: int) -> Compression:
        """How a layer of so many input features is compressed."""
        if self.num_groups is not None:
            groups, size = self.num_groups, -(-features // self.num_groups)
        else:
            size = min(self.sub_token_size, features)
            groups = -(-features // size)
        return Compression(
            groups=groups,
            size=size,
            init=self.init,
            decay=self.ema_decay,
            scale=self.scale,
            half=self.half,
        )

    def edits(self, anatomy: Anatomy) -> list[Step]:
        """None of its own: see `further`."""
        return []

    def further(self, anatomy: Anatomy, steps: Sequence[Step]) -> list[Step]:
        """One edit per compressed input.

        Raises:
            UnsupportedBackboneError: If no method trains something that could be compressed, at all or at a role.
        """
        found = _Places(self, anatomy, steps)
        if self.roles:
            operators = {slot.operator.path: slot.operator for slot in anatomy.find(self.roles)}
            edits = [step for operator in operators.values() for step in found.at(operator)]
        else:
            edits = found.usual()
        if not edits:
            names = ", ".join(sorted({s.key for s in steps if isinstance(s, (Attach, AttachAtPoint))}))
            raise UnsupportedBackboneError(
                f"velora: found no input to compress beside {names or 'these methods'}; it acts on full fine-tuning, "
                f"lora, ssf, adapter and adaptformer."
            )
        return edits


class _Places:
    """What the other methods train, by operator."""

    def __init__(self, config: VeLoRA, anatomy: Anatomy, steps: Sequence[Step]) -> None:
        self._config, self._anatomy, self._steps = config, anatomy, steps
        self._trained = {step.path for step in steps if isinstance(step, Train)}
        operators = {operator.path for operator in anatomy.operators}
        self._on = {
            step.path: step
            for step in steps
            if isinstance(step, Attach) and step.key in ("lora", "ssf") and step.path in operators
        }

    def usual(self) -> list[Step]:
        """Where nobody chose roles."""
        operators = {operator.path: operator for operator in self._anatomy.operators}
        wanted: list[Step] = []
        if any(step.key == "ssf" for step in self._on.values()):
            warnings.warn(
                "velora: ssf keeps the inputs of its pairs once and nothing beside; compressing them keeps more. It is "
                "here for comparison with the published combination.",
                stacklevel=2,
            )
        for path, step in self._on.items():
            linear = operators[path].kind == "linear"
            if (step.key == "lora" and linear) or short_name(step.role) in _SSF_ROLES:
                wanted += self.at(operators[path])
        down = [step for step in self._steps if isinstance(step, AttachAtPoint) and step.key in _DOWN]
        if any(step.point == "mlp.beside" for step in down):
            warnings.warn(
                "velora: adapters beside the MLP read the residual stream, which the norm keeps anyway; compressing it "
                "saves nothing, place them in sequence.",
                stacklevel=2,
            )
        wanted += [self._down(step) for step in down]
        if wanted:
            return wanted
        return [step for o in operators.values() if self._usual_of_full(o) for step in self.at(o)]

    def _usual_of_full(self, operator: Operator) -> bool:
        return short_name(operator.role) == "mlp.out" and f"{operator.path}.weight" in self._trained

    def at(self, operator: Operator) -> list[Step]:
        """The edits of one layer."""
        step = self._on.get(operator.path)
        if step is not None and step.key == "lora" and operator.kind == "linear":
            return [self._make(operator.role, layer_path(step), VeloraDownEdit, operator.in_features)]
        if step is not None and operator.layout == "NLC" and not issubclass(step.edit, ScaleShiftNormEdit):
            pair = self._make(operator.role, layer_path(step), VeloraScaleShiftEdit, operator.out_features)
            return [pair, Attach(operator.role, operator.path, VeloraOutputEdit, nn.Identity)]
        if operator.kind != "linear" or f"{operator.path}.weight" not in self._trained:
            raise UnsupportedBackboneError(
                f"velora: nothing that trains at '{operator.role}' is a linear layer's weight, lora or ssf on tokens; "
                f"name roles of layers that the other methods train."
            )
        if short_name(operator.role) == "attn.out":
            warnings.warn(
                "velora: attention keeps the input of 'attn.out' anyway; compressing it costs memory.",
                stacklevel=2,
            )
        return [self._make(operator.role, operator.path, VeloraLinearEdit, operator.in_features)]

    def _down(self, step: AttachAtPoint) -> Step:
        block = next(block for block in self._anatomy.blocks if block.path == step.path)
        return self._make(step.role, f"{layer_path(step)}.{_DOWN[step.key]}", VeloraLinearEdit, block.width)

    def _make(self, role: str, path: str, edit: type[VeloraEdit], features: int) -> Step:
        return Attach(role, path, edit, _Make(self._config.compression(features)))


@dataclass(frozen=True)
class _Make:
    compression: Compression

    def __call__(self) -> Direction:
        return Direction(self.compression)
