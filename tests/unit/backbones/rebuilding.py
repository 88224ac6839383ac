"""Making a model again from its description, and comparing the two."""

from __future__ import annotations

import json
from typing import Any

import torch

from vitune.backbones import BackboneSource, rebuild


def rebuilt(source: BackboneSource | None) -> Any:
    """The model that a source makes after a way through JSON, as an adapter's."""
    assert source is not None
    return rebuild(BackboneSource.from_dict(json.loads(json.dumps(source.to_dict()))), 3)


def same(a: Any, b: Any) -> bool:
    own, other = a.state_dict(), b.state_dict()
    return own.keys() == other.keys() and all(
        torch.equal(t, other[name]) for name, t in own.items() if "head" not in name
    )
