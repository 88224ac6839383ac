"""A golden file: tensors by group, and the metadata that says how they were made."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor


class Noted(dict[str, Any]):
    """Metadata that notes which of its keys were asked for."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.asked: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.asked.add(key)
        return super().__getitem__(key)

    def __missing__(self, key: str) -> Any:
        raise ValueError(f"the golden does not state '{key}'")

    def get(self, key: str, default: Any = None) -> Any:
        """As of any dictionary."""
        self.asked.add(key)
        return super().get(key, default)


@dataclass(frozen=True)
class Golden:
    """Tensors are named `param/NAME`, `grad/NAME`, `aux/NAME`, `input`, `labels`, `logits`, `loss`."""

    tensors: dict[str, Tensor]
    kind: str
    method: str
    case: str
    backbone: dict[str, Any]
    hyperparameters: dict[str, Any]
    path: Path | None = None
    metadata: dict[str, str] = field(default_factory=dict)

    def group(self, name: str) -> dict[str, Tensor]:
        prefix = f"{name}/"
        return {key.removeprefix(prefix): t for key, t in self.tensors.items() if key.startswith(prefix)}

    def unasked(self) -> list[str]:
        """Metadata that nobody asked for; of a file that is not ok, options that are not known here may be among it."""
        parts = {"backbone": self.backbone, "hyperparameters": self.hyperparameters}
        asked = {part: getattr(given, "asked", set()) for part, given in parts.items()}
        return [
            f"{part}.{key}" for part, given in parts.items() for key in sorted(given.keys() - asked[part])
        ]


def read(path: Path) -> Golden:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    return Golden(
        tensors,
        kind=metadata.get("kind", ""),
        method=metadata.get("method", ""),
        case=metadata.get("case", ""),
        backbone=Noted(json.loads(metadata.get("backbone", "{}"))),
        hyperparameters=Noted(json.loads(metadata.get("hyperparameters", "{}"))),
        path=path,
        metadata=metadata,
    )
