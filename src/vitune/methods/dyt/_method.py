"""DyT: parallel adapters, and a gate per block by which tokens skip the frozen MLP.

Zhao et al., "Dynamic Tuning Towards Parameter and Inference Efficiency for ViT Adaptation", NeurIPS 2024
(arXiv:2403.11808). Official code: NUS-HPC-AI-Lab/Dynamic-Tuning @ d1744f0.

`h = x + Attn(LN1 x)`; `m = gate(h)`; `x' = h + m * MLP(LN2 h) + s * (Drop(ReLU(h Wd^T + bd)) Wu^T + bu)`.
The gate scores the residual stream, `l = h Wg^T + bg`, and keeps a patch token where sigmoid(l) > 1/2; prefix tokens
are always kept. In training l carries logistic noise and a temperature, with straight-through gradients. The loss is
`CE(dynamic) + CE(complete) + KL(complete || dynamic) + 2 (mean(m) - r)^2` over two passes, see `policy.py`.

Where we differ: the released code has the dispatch of the MLP with the plain adapter alone. The other dispatches and
the mixture of adapters are the paper's text; what it leaves open is marked in `dispatch.py` and `moe.py`. The two
passes go backward one after the other, which gives the same gradients with half the activations. All prefix tokens
(registers, distillation) are exempt from skipping as the class token is. The noise is drawn in float32.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from torch import Tensor, nn

from vitune.anatomy import Anatomy, Block
from vitune.errors import UnsupportedBackboneError
from vitune.methods._base import Method, Skipping
from vitune.methods._registry import register
from vitune.methods.adaptformer import AdaptFormer, Bottleneck
from vitune.methods.dyt.activity import gates, kept_tokens, picture_record
from vitune.methods.dyt.dispatch import AttentionDispatch, Dispatch, LayerDispatch, MlpDispatch, computing_all
from vitune.methods.dyt.gate import DecideBy, GateSettings
from vitune.methods.dyt.moe import MixtureOfBottlenecks
from vitune.methods.dyt.policy import DyTPolicy, TrainingTerms
from vitune.methods.dyt.reading import head_reads
from vitune.surgery import AttachAtPoint, Step, points_for

if TYPE_CHECKING:
    from vitune.tuned import Tuned

# What is skipped -> (point of the gate, point of the adapter, what the gate does there).
_PARTS: dict[str, tuple[tuple[str, str, type[Dispatch]], ...]] = {
    "mlp": (("mlp.around", "mlp.beside", MlpDispatch),),
    "attention": (("attn.around", "attn.beside", AttentionDispatch),),
    "layer": (("around", "beside", LayerDispatch),),
}
_PARTS["attention-mlp"] = (*_PARTS["attention"], *_PARTS["mlp"])


@register
@dataclass(frozen=True, kw_only=True)
class DyT(Method):
    """Settings of DyT.

    Attributes:
        bottleneck: Width of the adapter's bottleneck.
        scale: Factor s of the adapter, a number, or `learnable` (one scalar per adapter that starts at 1).
        layernorm: A LayerNorm of the adapter's own: `none`, `in` front of Wd, or on the `out`put s * up.
        dropout: Probability, after the adapter's ReLU.
        dispatch: What tokens skip: `mlp`, `attention`, both on their own (`attention-mlp`), or the whole `layer`.
        first_block: The first block with a gate; those before it have an adapter only.
        target_rate: The share r of patch tokens that is to be kept, over all layers and images.
        rate_weight: Weight of (mean(m) - r)^2.
        complete_pass: What a second pass is for in which nothing is skipped: to learn and to teach the dynamic one
            (`distil`), to `learn`, or `none`.
        temperature: tau of the gate in training.
        final_temperature: What tau falls to, linearly over the steps of the run; none keeps it.
        threshold: A token is kept where the gate is above it.
        decide_by: What a gate goes by: every `token`'s score; the mean score of an `image`, whose patches are kept or
            skipped together; or nothing, at `random` with `target_rate`. The last two are controls.
        attend: In attention or layer dispatch, whether training attends to `active` tokens, as inference does, or to
            `all` of them, as the paper's text says.
        experts: Adapters that are mixed for every image; 1 is the plain adapter.
        routing: What makes the router's scores weights, `softmax` or `sigmoid`.
    """

    name: ClassVar[str] = "dyt"
    title: ClassVar[str] = "DyT"
    paper: ClassVar[str] = "arXiv:2403.11808"
    default_lr: ClassVar[float] = 1e-3
    search_space: ClassVar = {"bottleneck": (16, 32, 64)}
    merges: ClassVar[bool] = False
    conflicts: ClassVar[Mapping[str, str]] = {
        **Method.conflicts,
        "adaptformer": "dyt brings the same adapter with its gates; choose its bottleneck and scale there",
        "alast": "both decide which tokens a block computes",
        "e2vpt": "a gate scores patch tokens, and would take prompts in the sequence for patches",
        "vpt": "a gate scores patch tokens, and would take prompts in the sequence for patches",
    }

    bottleneck: int = 64
    scale: float | Literal["learnable"] = 0.1
    layernorm: Literal["none", "in", "out"] = "none"
    dropout: float = 0.1
    dispatch: Literal["mlp", "attention", "attention-mlp", "layer"] = "mlp"
    first_block: int = 0
    target_rate: float = 0.5
    rate_weight: float = 2.0
    complete_pass: Literal["distil", "learn", "none"] = "distil"
    temperature: float = 5.0
    final_temperature: float | None = None
    threshold: float = 0.5
    decide_by: DecideBy = "token"
    attend: Literal["active", "all"] = "active"
    experts: int = 1
    routing: Literal["softmax", "sigmoid"] = "softmax"

    def __post_init__(self) -> None:
        self.require(self.bottleneck >= 1, "bottleneck", "at least 1")
        fixed = isinstance(self.scale, (int, float)) and math.isfinite(self.scale)
        self.require(fixed or self.scale == "learnable", "scale", "a finite number or 'learnable'")
        self.require(self.layernorm in ("none", "in", "out"), "layernorm", "'none', 'in' or 'out'")
        self.require(0 <= self.dropout < 1, "dropout", "in [0, 1)")
        self.require(self.dispatch in _PARTS, "dispatch", "'mlp', 'attention', 'attention-mlp' or 'layer'")
        self.require(self.first_block >= 0, "first_block", "at least 0")
        self.require(0 < self.target_rate <= 1, "target_rate", "in (0, 1]")
        self.require(0 <= self.rate_weight < math.inf, "rate_weight", "a number that is not negative")
        known = self.complete_pass in ("distil", "learn", "none")
        self.require(known, "complete_pass", "'distil', 'learn' or 'none'")
        self.require(0 < self.temperature < math.inf, "temperature", "positive")
        final = self.final_temperature
        self.require(final is None or 0 < final < math.inf, "final_temperature", "positive or none")
        self.require(0 < self.threshold < 1, "threshold", "in (0, 1)")
        decided = self.decide_by in get_args(DecideBy)
        self.require(decided, "decide_by", "'token', 'image' or 'random'")
        self.require(self.attend in ("active", "all"), "attend", "'active' or 'all'")
        self.require(self.experts >= 1, "experts", "at least 1")
        self.require(self.routing in ("softmax", "sigmoid"), "routing", "'softmax' or 'sigmoid'")

    @property
    def starts_at_identity(self) -> bool:
        """False: the scores start near 0, so that about half of the tokens are skipped from the first step on."""
        return False

    def edits(self, anatomy: Anatomy) -> list[Step]:
        """An adapter per block and part, and from `first_block` on a gate."""
        if self.first_block >= len(anatomy.blocks):
            raise UnsupportedBackboneError(
                f"dyt: first_block is {self.first_block}, but the backbone has {len(anatomy.blocks)} blocks; "
                f"no token could be skipped."
            )
        steps: list[Step] = []
        for block in anatomy.blocks:
            for part, (around, beside, kind) in enumerate(_PARTS[self.dispatch]):
                self._require_point(anatomy, block, around)
                role = f"blocks.{block.index}"
                if block.index >= self.first_block:
                    pattern = 2 * block.index + part
                    gate = _MakeDispatch(kind, block.width, anatomy.num_prefix_tokens, pattern, self)
                    steps.append(AttachAtPoint(f"{role}.{around}", block.path, around, self.name, gate))
                adapter = _MakeAdapter(block.width, self)
                steps.append(AttachAtPoint(f"{role}.{beside}", block.path, beside, self.name, adapter))
        return [*steps, *head_reads(anatomy)]

    def policy(self, tuned: Tuned) -> DyTPolicy:
        """The two passes and the four terms of the loss."""
        terms = TrainingTerms(
            target_rate=self.target_rate,
            rate_weight=self.rate_weight,
            complete_pass=self.complete_pass,
            temperature=self.temperature,
            final_temperature=self.final_temperature,
        )
        return DyTPolicy([m for m in tuned.model.modules() if isinstance(m, Dispatch)], terms)

    def skipping(self, tuned: Tuned) -> Skipping:
        """What the gates keep, and the model with everything computed and masked."""
        found = gates(tuned)
        return Skipping(
            kept=partial(kept_tokens, tuned),
            dense=partial(computing_all, list(found.values())),
        )

    def pictures(self, tuned: Tuned, images: Tensor) -> dict[str, Any]:
        """Which patches every gate keeps, where all gates see one grid."""
        patches = math.prod(tuned.anatomy.grid)
        if any(kept.shape[1] != patches for kept in kept_tokens(tuned, images[:1]).values()):
            return {}
        return {"kept_patches": picture_record(tuned, images)}

    def _require_point(self, anatomy: Anatomy, block: Block, point: str) -> None:
        module = anatomy.model.get_submodule(block.path)
        if point not in points_for(module).points:
            advice = "" if self.dispatch == "mlp" else "; its MLP may be skippable: try dispatch=mlp"
            raise UnsupportedBackboneError(
                f"dyt: tokens cannot skip the {self.dispatch} of a {type(module).__name__}, whose forward pass does "
                f"not let a part be computed for some tokens alone{advice}."
            )


@dataclass(frozen=True)
class _MakeDispatch:
    kind: type[Dispatch]
    width: int
    prefix: int
    pattern: int
    config: DyT

    def __call__(self) -> Dispatch:
        settings = GateSettings(
            temperature=self.config.temperature,
            threshold=self.config.threshold,
            nominal_rate=self.config.target_rate,
            hide_skipped=self.config.attend == "active",
            decide_by=self.config.decide_by,
            pattern=self.pattern,
        )
        return self.kind(self.width, self.prefix, settings)


@dataclass(frozen=True)
class _MakeAdapter:
    width: int
    config: DyT

    def __call__(self) -> nn.Module:
        config = self.config
        adapter = AdaptFormer(
            bottleneck=config.bottleneck,
            scale=config.scale,
            layernorm=config.layernorm,
            dropout=config.dropout,
        )
        if config.experts == 1:
            return Bottleneck(self.width, adapter)
        return MixtureOfBottlenecks(self.width, adapter, config.experts, config.routing)
