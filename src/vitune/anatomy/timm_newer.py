"""Classes that not every supported release of timm has; in place of a missing one, a class without instances."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from torch import nn

__all__ = ["DiffAttention", "DiffParallelScalingBlock"]


def _class(module: str, name: str) -> Any:
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        return type(name, (nn.Module,), {})


if TYPE_CHECKING:
    from timm.layers.diff_attention import DiffAttention
    from timm.models.vision_transformer import DiffParallelScalingBlock
else:
    DiffAttention = _class("timm.layers.diff_attention", "DiffAttention")
    DiffParallelScalingBlock = _class("timm.models.vision_transformer", "DiffParallelScalingBlock")
