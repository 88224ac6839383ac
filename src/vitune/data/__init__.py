"""Reading data: image folders, lists, tables, Parquet, Hugging Face and WebDataset, as seeded torch pipelines.

Start with `open_source`. The names below are imported when first used, so that listing a data set loads
neither torchvision nor timm.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_EXPORTS = {
    "AugmentConfig": "vitune.data.transforms",
    "EpochSampler": "vitune.data.sampler",
    "Pipeline": "vitune.data.pipeline",
    "Preprocessing": "vitune.data.preprocessing",
    "Samples": "vitune.data.samples",
    "Source": "vitune.data.source",
    "build_transform": "vitune.data.transforms",
    "collate": "vitune.data.pipeline",
    "list_images": "vitune.data.images",
    "open_samples": "vitune.data.opening",
    "open_source": "vitune.data.opening",
    "read_image": "vitune.data.images",
}
__all__ = ["AugmentConfig", "EpochSampler", "Pipeline", "Preprocessing", "Samples", "Source"]
__all__ += ["build_transform", "collate", "list_images", "open_samples", "open_source", "read_image"]

if TYPE_CHECKING:
    from vitune.data.images import list_images as list_images
    from vitune.data.images import read_image as read_image
    from vitune.data.opening import open_samples as open_samples
    from vitune.data.opening import open_source as open_source
    from vitune.data.pipeline import Pipeline as Pipeline
    from vitune.data.pipeline import collate as collate
    from vitune.data.preprocessing import Preprocessing as Preprocessing
    from vitune.data.sampler import EpochSampler as EpochSampler
    from vitune.data.samples import Samples as Samples
    from vitune.data.source import Source as Source
    from vitune.data.transforms import AugmentConfig as AugmentConfig
    from vitune.data.transforms import build_transform as build_transform


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'vitune.data' has no attribute '{name}'")
    return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
