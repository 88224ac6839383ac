"""SSF: scale and shift the features after every operation, merged away after training.

Lian, Zhou, Feng, Wang, "Scaling & Shifting Your Features: A New Baseline for Efficient Model Tuning", NeurIPS 2022
(arXiv:2210.08823, eq. 4: y = gamma * x + beta; eq. 5: re-parameterisation). Official code: dongzelian/SSF @ e94e0e7,
which has no merge.

Where we differ: the channel layout is known, not guessed from shapes. The pair after the last block of a model without
final norm (average pooling) acts on the residual stream in front of a LayerNorm and cannot be folded: merging is
refused, or folds all other pairs and moves this one behind the pooling (`partial=True`).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from vitune.anatomy import Anatomy, Operator, short_name
from vitune.errors import UnsupportedBackboneError
from vitune.methods._base import Method
from vitune.methods._registry import register
from vitune.methods.ssf.pairs import ScaleShift, ScaleShiftEdit, ScaleShiftNormEdit
from vitune.methods.ssf.recompute import ActivationEdit, AttentionEdit, LeftToReader, Reader
from vitune.surgery import Attach, Step, Train, activation_behind, attention_around

# Norms of queries and keys, inside MLPs and after the pooling have no pair in the released networks.
_NO_PAIR = ("attn.q_norm", "attn.k_norm", "attn.norm", "mlp.norm", "fc_norm", "shift.norm1", "shift.norm2")
# Sites that the released code declares and never makes, beside those between stages, by family.
_OPTIONAL = {"as-mlp": ("patch_embed", "patch_embed.norm")}


@register
@dataclass(frozen=True, kw_only=True)
class SSF(Method):
    """Settings of SSF.

    Attributes:
        init_std: Scales start at N(1, init_std), shifts at N(0, init_std); 0 starts at the identity.
        roles: Which layers, as `vitune show --model NAME` names them; empty: all that the released networks have.
        downsample: Also pairs in the layers between stages, which the released code declares and never makes.
    """

    name: ClassVar[str] = "ssf"
    title: ClassVar[str] = "SSF, scaling and shifting features"
    paper: ClassVar[str] = "arXiv:2210.08823"
    default_lr: ClassVar[float] = 5e-3
    merges: ClassVar[bool] = True
    reads_text: ClassVar[bool] = True

    init_std: float = 0.02
    roles: tuple[str, ...] = ()
    downsample: bool = False

    def __post_init__(self) -> None:
        self.require(0 <= self.init_std < float("inf"), "init_std", "0 or a positive number")

    @property
    def starts_at_identity(self) -> bool:
        """Only with `init_std=0`."""
        return self.init_std == 0

    def edits(self, anatomy: Anatomy) -> list[Step]:
        """One pair per operator.

        Raises:
            UnsupportedBackboneError: If a role names rows of a fused layer.
        """
        if self.roles:
            slots = anatomy.find(self.roles)
            for slot in slots:
                if slot.rows is not None:
                    raise UnsupportedBackboneError(
                        f"ssf: '{slot.role}' is a part of the layer '{slot.operator.role}'; name the whole layer."
                    )
            operators = [slot.operator for slot in slots]
        else:
            operators = self._released(anatomy)
        steps: list[Step] = []
        for operator in operators:
            steps += _pair(anatomy, operator, self.init_std)
        # The released code trains every parameter with "head." in its name: ConvNeXt keeps its last norm there.
        for operator in anatomy.operators:
            if operator.role.startswith("head."):
                module = anatomy.model.get_submodule(operator.path)
                steps += [
                    Train(f"{operator.role}.{name}", f"{operator.path}.{name}")
                    for name, parameter in module.named_parameters(recurse=False)
                ]
        return steps

    def _released(self, anatomy: Anatomy) -> list[Operator]:
        """The operators that have a pair in the released networks, and those between stages where asked for."""
        without = _NO_PAIR + (() if self.downsample else _OPTIONAL.get(anatomy.family, ()))
        found = []
        for operator, after in itertools.zip_longest(anatomy.operators, anatomy.operators[1:]):
            between = operator.role.startswith("downsample.")
            if between and not (self.downsample and operator.role.endswith((".norm", ".conv"))):
                continue
            if short_name(operator.role) in without or operator.role.startswith("head."):
                continue
            if not _normed_per_channel(anatomy, operator, after):
                found.append(operator)
        return found


def _normed_per_channel(anatomy: Anatomy, operator: Operator, after: Operator | None) -> bool:
    """Whether a batch norm follows a convolution: a pair behind the norm can do all that one before it can."""
    if operator.kind != "conv" or after is None:
        return False
    layer, norm = (anatomy.model.get_submodule(o.path) for o in (operator, after))
    same_width = operator.out_features == after.out_features
    return layer._parameters.get("bias") is None and isinstance(norm, _BatchNorm) and same_width


def _pair(anatomy: Anatomy, operator: Operator, init_std: float) -> list[Step]:
    """The pair of an operator, and what reads it where its output is not to be kept."""
    model, role, path, make = anatomy.model, operator.role, operator.path, _Make(operator, init_std)
    layer = model.get_submodule(path)
    if operator.kind == "norm" and all(
        layer._parameters.get(name) is not None for name in ("weight", "bias")
    ):
        return [Attach(role, path, ScaleShiftNormEdit, make)]
    if (activation := activation_behind(model, path)) is not None:
        reader = Attach(role, activation, ActivationEdit, _MakeReader(layer))
        return [Attach(role, path, LeftToReader, make), reader]
    steps: list[Step] = [Attach(role, path, ScaleShiftEdit, make)]
    if (attention := attention_around(model, path)) is not None:
        steps.append(Attach(role, attention, AttentionEdit, _MakeReader(layer)))
    return steps


@dataclass(frozen=True)
class _Make:
    operator: Operator
    init_std: float

    def __call__(self) -> ScaleShift:
        return ScaleShift(self.operator.out_features, self.operator.layout == "NCHW", self.init_std)


@dataclass(frozen=True)
class _MakeReader:
    layer: nn.Module

    def __call__(self) -> Reader:
        return Reader(self.layer)
