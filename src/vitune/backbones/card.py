"""The built-in backbone as data: its architecture, input and history stand in a card beside the weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BUILT_IN = "vitune_vit_nano_patch8_64"
FORMAT = 1


@dataclass(frozen=True)
class Card:
    """What a card says that code needs.

    Attributes:
        path: The card.
        architecture: Arguments of timm's VisionTransformer, without `num_classes`.
        num_classes: Classes of the weights' own classifier.
        input: `size` (channels, height, width), `mean`, `std`, `interpolation` and `crop_pct`.
        sha256: Hash of the weight file.
    """

    path: Path
    architecture: dict[str, Any]
    num_classes: int
    input: dict[str, Any]
    sha256: str

    @property
    def weights(self) -> Path:
        """The weight file, which stands beside the card."""
        return self.path.with_suffix(".safetensors")


def read_card(path: Path | None = None) -> Card:
    """Read a card.

    Args:
        path: The card; None takes that of the built-in backbone.
    """
    path = path if path is not None else Path(__file__).with_name(f"{BUILT_IN}.json")
    values = json.loads(path.read_text(encoding="utf-8"))
    if values["format"] != FORMAT:
        raise ValueError(f"the card {path} has format {values['format']!r}, not {FORMAT}")
    return Card(path, values["architecture"], values["num_classes"], values["input"], values["sha256"])
