"""What VeLoRA saves, as a formula."""

from __future__ import annotations

from vitune.methods.velora.direction import Compression


def saved_elements(features: int, compression: Compression) -> int:
    """Elements per token that a compressed layer need not keep: D - G.

    True where nobody else keeps that input: the layer behind a norm, a GELU or an elementwise product, but not the one
    behind attention, which keeps its own output.

    Args:
        features: Input features D of the layer.
        compression: How it is compressed; negative gains are possible where G exceeds D.
    """
    return features - compression.groups
