"""How a backbone wants its images: size, resampling, crop and normalisation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from vitune.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from torch import nn

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
CROP_MODES = ("center", "squash", "border")


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Settings of the evaluation transform, in timm's words and stored with every adapter.

    Args:
        input_size: Channels, height and width that the backbone takes; channels are 3.
        interpolation: Resampling filter.
        mean: Mean of each channel that is taken off, for values in 0..1.
        std: What each channel is divided by.
        crop_pct: Share of the resized image that the crop keeps; 1 keeps all.
        crop_mode: "center" resizes the short side and crops; "squash" resizes to the size without regard to
            the aspect; "border" resizes the long side and fills up.
    """

    input_size: tuple[int, int, int] = (3, 224, 224)
    interpolation: str = "bicubic"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    crop_pct: float = 0.875
    crop_mode: str = "center"

    def __post_init__(self) -> None:
        for name in ("input_size", "mean", "std"):
            value = getattr(self, name)
            if isinstance(value, str) or not hasattr(value, "__len__") or len(value) != 3:
                raise ConfigError(f"preprocessing: {name} must hold three numbers, not {value!r}.")
            object.__setattr__(self, name, tuple(value))  # JSON gives lists
        channels, height, width = self.input_size
        if channels != 3 or height < 1 or width < 1:
            raise ConfigError(f"preprocessing: input_size must be (3, height, width), not {self.input_size}.")
        if not all(math.isfinite(value) for value in (*self.mean, *self.std)) or min(self.std) <= 0:
            raise ConfigError(
                f"preprocessing: mean must be finite and std positive, not {self.mean} and {self.std}."
            )
        if not 0 < self.crop_pct <= 1:
            raise ConfigError(f"preprocessing: crop_pct must be above 0 and at most 1, not {self.crop_pct}.")
        for name, known in (("interpolation", INTERPOLATIONS), ("crop_mode", CROP_MODES)):
            value = getattr(self, name)
            if value not in known:
                raise ConfigError(f"preprocessing: {name} is '{value}'. {did_you_mean(str(value), known)}")

    @classmethod
    def from_model(cls, model: nn.Module, **overrides: Any) -> Preprocessing:
        """The settings that a backbone's own configuration names.

        For a timm model these are its `pretrained_cfg`, with the size that the model was built for. For a
        transformers model they come from its image processor's file where that is at hand, else from what its
        family was trained with.

        Args:
            model: A timm or transformers model.
            **overrides: Fields to set otherwise.

        Raises:
            ConfigError: If an override is unknown or out of range, or the model names no settings.
        """
        if getattr(model, "pretrained_cfg", None) is not None:
            found = _timm_settings(model)
        else:
            from vitune.data.hf_preprocessing import hf_settings

            found = hf_settings(model)
        return cls.from_dict({**found, **overrides})

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> Preprocessing:
        """The inverse of `to_dict`.

        Raises:
            ConfigError: If a key is unknown or a value out of range.
        """
        known = [field.name for field in fields(cls)]
        for key in settings:
            if key not in known:
                raise ConfigError(f"preprocessing: unknown setting '{key}'. {did_you_mean(key, known)}")
        return cls(**settings)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()
        }

    def exact_square(self) -> Preprocessing:
        """The same with the whole image squashed to the input size, as VTAB-1k evaluates."""
        return replace(self, crop_pct=1.0, crop_mode="squash")


def _timm_settings(model: nn.Module) -> dict[str, Any]:
    from timm.data.config import resolve_model_data_config

    settings = resolve_model_data_config(model)
    # A model built with img_size=... keeps the size of its pre-training in `pretrained_cfg`; its patch grid
    # knows.
    patches = getattr(model, "patch_embed", getattr(model, "stem", None))
    built_for = getattr(patches, "img_size", None)
    if built_for is not None:
        settings["input_size"] = (3, *built_for)
    return {field.name: settings[field.name] for field in fields(Preprocessing)}
