"""The maps of the pyramid as pictures: their first principal component, for the report of a run."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

LARGEST = 64  # cells on a side that are kept


def map_record(maps: list[Tensor], size: tuple[int, int]) -> dict[str, Any]:
    """What `vitune.report.pictures.pyramid_maps` draws, as JSON values.

    Args:
        maps: One map (B, c, H, W) per stage.
        size: Height and width of the images.
    """
    return {"stages": [_stage(found.detach().float().cpu(), size) for found in maps]}


def _stage(found: Tensor, size: tuple[int, int]) -> dict[str, Any]:
    height, width = found.shape[-2:]
    component, share = principal_component(found)
    shrink = -(-max(height, width) // LARGEST)
    if shrink > 1:
        component = F.avg_pool2d(component[:, None], shrink, ceil_mode=True)[:, 0]
    low, high = component.min(), component.max()
    levels = ((component - low) / (high - low).clamp_min(1e-12) * 255).round().to(torch.uint8)
    return {
        "stride": round(size[0] / height),
        "channels": found.shape[1],
        "size": list(levels.shape[1:]),
        "variance_share": round(share, 4),
        "maps": [bytes(one.flatten().tolist()).hex() for one in levels],
    }


def principal_component(found: Tensor) -> tuple[Tensor, float]:
    """The first principal component of maps over all images and places together.

    Args:
        found: (B, c, H, W).

    Returns:
        Its values (B, H, W), of a sign that makes the largest loading positive, and its share of the variance.
    """
    rows = found.permute(0, 2, 3, 1).flatten(0, 2).double()
    rows = rows - rows.mean(0)
    variances, loadings = torch.linalg.eigh(rows.T @ rows)
    first = loadings[:, -1]
    first = first * first[first.abs().argmax()].sign()
    total = float(variances.clamp_min(0).sum())
    share = float(variances[-1]) / total if total > 0 else 0.0
    batch, _, height, width = found.shape
    return (rows @ first).view(batch, height, width), share
