"""SSF: scale and shift the features after every operation, merged away after training.

Lian, Zhou, Feng, Wang, "Scaling & Shifting Your Features: A New Baseline for Efficient Model Tuning", NeurIPS 2022
(arXiv:2210.08823, eq. 4: y = gamma * x + beta; eq. 5: re-parameterisation). Official code: dongzelian/SSF @ e94e0e7,
which has no merge.

Where we differ: the channel layout is known, not guessed from shapes. The pair after the last block of a model without
final norm (average pooling) acts on the residual stream in front of a LayerNorm and cannot be folded: merging is
refused, or folds all other pairs and leaves this one in place (`partial=True`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vitune.anatomy import Anatomy, Operator, short_name
from vitune.errors import UnsupportedBackboneError
from vitune.methods._base import Method
from vitune.methods._registry import register
from vitune.surgery import Attach, Edit, Step

# Norms of queries and keys, inside MLPs and after the pooling have no pair in the released networks.
_NO_PAIR = ("attn.q_norm", "attn.k_norm", "attn.norm", "mlp.norm", "fc_norm")


@register
@dataclass(frozen=True, kw_only=True)
class SSF(Method):
    """Settings of SSF.

    Attributes:
        init_std: Scales start at N(1, init_std), shifts at N(0, init_std); 0 starts at the identity.
        roles: Which layers, as `vitune show --model NAME` names them; empty: all that the released networks have.
    """

    name: ClassVar[str] = "ssf"
    title: ClassVar[str] = "SSF, scaling and shifting features"
    paper: ClassVar[str] = "arXiv:2210.08823"
    default_lr: ClassVar[float] = 5e-3
    merges: ClassVar[bool] = True

    init_std: float = 0.02
    roles: tuple[str, ...] = ()

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
            operators = [o for o in anatomy.operators if short_name(o.role) not in _NO_PAIR]
        return [
            Attach(operator.role, operator.path, ScaleShiftEdit, _Make(operator, self.init_std))
            for operator in operators
        ]


@dataclass(frozen=True)
class _Make:
    operator: Operator
    init_std: float

    def __call__(self) -> ScaleShift:
        return ScaleShift(self.operator.out_features, self.operator.layout == "NCHW", self.init_std)


class ScaleShift(nn.Module):
    """One pair (s, t), both (C,)."""

    def __init__(self, channels: int, channels_first: bool, init_std: float) -> None:
        super().__init__()
        self.channels_first = channels_first
        self.scale = nn.Parameter(torch.empty(channels))
        self.shift = nn.Parameter(torch.empty(channels))
        nn.init.normal_(self.scale, 1.0, init_std)
        nn.init.normal_(self.shift, 0.0, init_std)

    def forward(self, x: Tensor) -> Tensor:
        """`s * x + t` over the channels of x: (..., C), or (B, C, height, width) where channels come first."""
        if self.channels_first:
            return torch.addcmul(self.shift[:, None, None], x, self.scale[:, None, None])
        return torch.addcmul(self.shift, x, self.scale)


class ScaleShiftEdit(Edit):
    """Scales and shifts the output of an operator."""

    key = "ssf"

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """As the operator below it."""
        return self.vitune.ssf(super().forward(x, *args, **kwargs))

    @staticmethod
    def can_fold(module: nn.Module) -> bool:
        """Not into an identity or an RMS norm, which have no place for the shift."""
        return "bias" in module._parameters

    @staticmethod
    def fold(module: Any, layer: nn.Module) -> None:
        """W' = s W over output rows, b' = s b + t (eq. 5); the same for the affine of a norm."""
        assert isinstance(layer, ScaleShift)
        weight, bias = module.weight, module.bias
        scale, shift = layer.scale.float(), layer.shift.float()
        weight.copy_(weight.float() * scale.view(-1, *[1] * (weight.dim() - 1)))
        if bias is None:
            module.bias = nn.Parameter(shift.to(weight.dtype), requires_grad=False)
        else:
            bias.copy_(bias.float() * scale + shift)
