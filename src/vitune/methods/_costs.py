"""What methods cost with their default settings, counted once: kept beside the code, so that it is there at once.

`python -m benchmarks.costs` writes the file; a test counts again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

KNOWN_COSTS = Path(__file__).parent / "costs.json"


@dataclass(frozen=True)
class MethodCosts:
    """Costs of a method.

    Attributes:
        parameters: Trained, without the head.
        saved_activation_mib: Kept between forward and backward of a step, in MiB, by memory level.
    """

    parameters: int
    saved_activation_mib: Mapping[str, float]


@dataclass(frozen=True)
class KnownCosts:
    """Costs of methods on one backbone.

    Attributes:
        model: timm architecture.
        batch_size: Images of the step.
        classes: Classes of the head.
        methods: By name; methods from other packages are not among them.
    """

    model: str
    batch_size: int
    classes: int
    methods: Mapping[str, MethodCosts]


@cache
def known_costs() -> KnownCosts:
    """The costs in the file."""
    stored = json.loads(KNOWN_COSTS.read_text())
    methods = {name: MethodCosts(**values) for name, values in stored.pop("methods").items()}
    return KnownCosts(**stored, methods=methods)
