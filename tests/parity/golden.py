"""A golden file: tensors by group, and the metadata that says how they were made."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor


class Settings(dict[str, Any]):
    """What a golden was made with; knows what has not been asked for."""

    def __init__(self, found: dict[str, Any]) -> None:
        super().__init__(found)
        self.unread = set(found)

    def __getitem__(self, name: str) -> Any:
        self.unread.discard(name)
        return super().__getitem__(name)

    def __missing__(self, name: str) -> Any:
        raise ValueError(f"the golden does not state '{name}'")

    def get(self, name: str, default: Any = None) -> Any:
        self.unread.discard(name)
        return super().get(name, default)


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


def read(path: Path) -> Golden:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    return Golden(
        tensors,
        kind=metadata.get("kind", ""),
        method=metadata.get("method", ""),
        case=metadata.get("case", ""),
        backbone=json.loads(metadata.get("backbone", "{}")),
        hyperparameters=Settings(json.loads(metadata.get("hyperparameters", "{}"))),
        path=path,
        metadata=metadata,
    )
