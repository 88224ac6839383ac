"""Linear probe: the head trains on frozen features.

Baseline of every paper. Where nothing random acts on the images, the features are computed once
(`vitune.training.feature_cache`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vitune.anatomy import Anatomy
from vitune.errors import UnsupportedBackboneError
from vitune.methods._base import Method
from vitune.methods._registry import register
from vitune.surgery import Step


@register
@dataclass(frozen=True, kw_only=True)
class LinearProbe(Method):
    """Train the head alone."""

    name: ClassVar[str] = "linear"
    title: ClassVar[str] = "Linear probe"
    paper: ClassVar[str] = "baseline"
    default_lr: ClassVar[float] = 1e-2
    merges: ClassVar[bool] = True
    reads_text: ClassVar[bool] = True
    conflicts: ClassVar[dict[str, str]] = {}

    def edits(self, anatomy: Anatomy) -> list[Step]:
        """Nothing.

        Raises:
            UnsupportedBackboneError: If the model has no head.
        """
        if not anatomy.head:
            instead = "create it with num_classes greater than 0"
            if anatomy.vocabulary:
                instead = "of a language model take ForSequenceClassification"
            raise UnsupportedBackboneError(f"linear: the model has no head to train; {instead}.")
        return []
