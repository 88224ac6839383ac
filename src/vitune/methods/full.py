"""Full fine-tuning: everything trains.

Baseline of every paper. Recipe of the usual rows: AdamW, lr scaled by batch / 256, cosine, 100 epochs
(KMnP/vpt @ 4410440); never with the learning rate of an adapter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vitune.anatomy import Anatomy
from vitune.methods._base import Method
from vitune.methods._registry import register
from vitune.surgery import Step, Train


@register
@dataclass(frozen=True, kw_only=True)
class Full(Method):
    """Train every parameter of the backbone and the head."""

    name: ClassVar[str] = "full"
    title: ClassVar[str] = "Full fine-tuning"
    paper: ClassVar[str] = "baseline"
    default_lr: ClassVar[float] = 1e-4
    merges: ClassVar[bool] = True
    reads_text: ClassVar[bool] = True
    conflicts: ClassVar[dict[str, str]] = {
        "linear": "one trains everything, the other nothing but the head",
    }

    def edits(self, anatomy: Anatomy) -> list[Step]:
        """Every parameter outside the head that the class scores depend on."""
        left = tuple(f"{path}." for path in (*anatomy.head, *anatomy.unused))
        names = (name for name, _ in anatomy.model.named_parameters())
        return [Train(anatomy.role_of(name), name) for name in names if not f"{name}.".startswith(left)]
