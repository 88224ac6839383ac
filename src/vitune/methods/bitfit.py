"""BitFit: additive biases train, weights do not.

Zaken, Ravfogel, Goldberg, "BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked
Language-models", ACL 2022 (arXiv:2106.10199); in vision as in KMnP/vpt @ 4410440.

Where we differ: that code trains every parameter whose name contains "bias". By default we train the additive biases of
linear layers, convolutions and norms, so that a position table with "bias" in its name stays frozen; `rule="names"` is
that code's. On plain ViTs both rules choose the same tensors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from vitune.anatomy import Anatomy
from vitune.errors import UnsupportedBackboneError
from vitune.methods._base import Method
from vitune.methods._registry import register
from vitune.surgery import Step, Train


@register
@dataclass(frozen=True, kw_only=True)
class BitFit(Method):
    """Train the additive biases of the backbone, and the head.

    Attributes:
        rule: `layers`: the biases of layers; `names`: every parameter with "bias" in its name, position tables too.
    """

    name: ClassVar[str] = "bitfit"
    title: ClassVar[str] = "BitFit"
    paper: ClassVar[str] = "arXiv:2106.10199"
    default_lr: ClassVar[float] = 5e-3
    merges: ClassVar[bool] = True
    reads_text: ClassVar[bool] = True

    rule: Literal["layers", "names"] = "layers"

    def __post_init__(self) -> None:
        self.require(self.rule in ("layers", "names"), "rule", "'layers' or 'names'")

    def edits(self, anatomy: Anatomy) -> list[Step]:
        """The biases of every operator.

        Raises:
            UnsupportedBackboneError: If the backbone has no bias at all.
        """
        steps = _by_name(anatomy) if self.rule == "names" else _of_layers(anatomy)
        if not steps:
            raise UnsupportedBackboneError("bitfit: no layer of this backbone has a bias.")
        return steps


def _of_layers(anatomy: Anatomy) -> list[Step]:
    steps: list[Step] = []
    for operator in anatomy.operators:
        module = anatomy.model.get_submodule(operator.path)
        if "bias" in module._parameters and module.bias is not None:
            steps.append(Train(f"{operator.role}.bias", f"{operator.path}.bias"))
        steps += [Train(anatomy.role_of(name), name) for name in operator.biases]
    return steps


def _by_name(anatomy: Anatomy) -> list[Step]:
    left = tuple(f"{path}." for path in (*anatomy.head, *anatomy.unused))
    names = [name for name, _ in anatomy.model.named_parameters() if "bias" in name]
    return [Train(anatomy.role_of(name), name) for name in names if not f"{name}.".startswith(left)]
