"""The preprocessing of transformers models, which keep it in an image processor's file beside the weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitune.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

_FILE = "preprocessor_config.json"
_RESAMPLING = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # by PIL's filter number
_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
_SQUASHED = {"interpolation": "bilinear", "crop_pct": 1.0, "crop_mode": "squash"}
_CROPPED = {"interpolation": "bicubic", "crop_pct": 0.875, "crop_mode": "center"}
# What transformers' own image processor of the family does when it is not told otherwise.
_FAMILIES: dict[str, dict[str, Any]] = {
    "vit": _HALF | _SQUASHED,
    "deit": _IMAGENET | _CROPPED,
    "dinov2": _IMAGENET | _CROPPED,
    "dinov2_with_registers": _IMAGENET | _CROPPED,
    "swin": _IMAGENET | _SQUASHED | {"interpolation": "bicubic"},
}


def hf_settings(model: nn.Module) -> dict[str, Any]:
    """The fields of `Preprocessing` for a transformers model.

    Args:
        model: A model with a `config` that has `image_size` and `model_type`.

    Raises:
        ConfigError: If the model has no such configuration, or its family is unknown and no image processor's
            file is at hand.
    """
    config: Any = getattr(model, "config", None)
    size = getattr(config, "image_size", None)
    if size is None:
        raise ConfigError(
            f"{type(model).__name__} names no preprocessing (neither timm's pretrained_cfg nor a "
            f"transformers config with image_size); give Preprocessing(...) yourself."
        )
    height, width = (size, size) if isinstance(size, int) else size
    path = _processor_file(str(getattr(config, "_name_or_path", "")))
    if path is not None:
        found = _from_processor(json.loads(path.read_text(encoding="utf-8")), height)
    elif config.model_type in _FAMILIES:
        found = _FAMILIES[config.model_type]
    else:
        raise ConfigError(
            f"{type(model).__name__} comes without {_FILE} and the usual preprocessing of "
            f"'{config.model_type}' is not known; give Preprocessing(...) yourself."
        )
    return {"input_size": (3, height, width), **found}


def _processor_file(name: str) -> Path | None:
    if not name:
        return None
    if Path(name).is_dir():
        path = Path(name) / _FILE
        return path if path.is_file() else None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(name, _FILE)
    except HFValidationError:  # a path that is gone, which cannot be the name of a repository
        return None
    return Path(cached) if isinstance(cached, str) else None


def _from_processor(settings: dict[str, Any], height: int) -> dict[str, Any]:
    found = {
        "mean": settings.get("image_mean", _HALF["mean"]),
        "std": settings.get("image_std", _HALF["std"]),
        "interpolation": _RESAMPLING[settings.get("resample", 2)],
    }
    size = settings.get("size")
    shortest = size.get("shortest_edge") if isinstance(size, dict) else None
    if settings.get("do_center_crop") and shortest:
        return {**found, "crop_pct": min(1.0, height / shortest), "crop_mode": "center"}
    if settings.get("do_center_crop") and isinstance(size, dict) and size.get("height"):
        return {**found, "crop_pct": min(1.0, height / size["height"]), "crop_mode": "squash"}
    return {**found, "crop_pct": 1.0, "crop_mode": "squash"}
