"""The settings of a pre-training run."""

from __future__ import annotations

import dataclasses
import json
import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from vitune.errors import ConfigError, did_you_mean
from vitune.training.config import Device

Optimizer = Literal["adamw", "muon"]
Precision = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """How to pre-train a timm architecture from labelled images.

    Args:
        data: What `vitune.data.open_source` opens, with a train and a val split.
        out: The run directory to make.
        arch: A timm architecture name.
        model_args: Arguments of the architecture, as `timm.create_model` takes them.
        image_size: Height and width that images are decoded to, in pixels.
        init_from: A finished run or a weight file to start from; patch and position embedding are resized.
        epochs: Passes over the training images.
        batch_size: Images per step, an even number since mixup mixes pairs.
        lr: Peak learning rate.
        optimizer: "adamw", or "muon" (for matrices, AdamW for the rest; `lr` is on AdamW's scale for both).
        weight_decay: Decay of matrices; vectors never decay.
        warmup_epochs: Length of the linear warm-up, in epochs.
        clip_norm: Largest norm of the gradient of all parameters together.
        ema: Decay per step of the averaged weights, which are what is validated and saved.
        label_smoothing: Share of the target spread over all classes.
        mixup: Alpha of mixup; 0 is off.
        cutmix: Alpha of cutmix; 0 is off.
        crop_min_area: Smallest share of the image area that a random crop keeps; 1 turns cropping off.
        flip: Whether half of the images are mirrored.
        jitter: Strength of brightness, contrast and saturation jitter; 0 is off.
        erase: Share of the images that lose a random rectangle.
        precision: "auto" is bf16 where the GPU or the CPU (AVX512-BF16) has it, and fp32 elsewhere.
        device: "auto" takes the accelerator that there is.
        seed: Seed of everything random.
        workers: Processes that decode images, once at the start; 0 decodes in the main process.
        checkpoint_minutes: Minutes between two checkpoints; 0 saves after every step.
        log_every: Steps between two "step" lines of the log.

    Raises:
        ConfigError: If a value is out of range.
    """

    data: Path
    out: Path
    arch: str = "vit_tiny_patch16_224"
    model_args: dict[str, Any] = field(default_factory=dict)
    image_size: int = 64
    init_from: Path | None = None
    epochs: int = 100
    batch_size: int = 512
    lr: float = 2e-3
    optimizer: Optimizer = "adamw"
    weight_decay: float = 0.05
    warmup_epochs: float = 5.0
    clip_norm: float = 1.0
    ema: float = 0.9995
    label_smoothing: float = 0.1
    mixup: float = 0.2
    cutmix: float = 1.0
    crop_min_area: float = 0.25
    flip: bool = True
    jitter: float = 0.3
    erase: float = 0.25
    precision: Precision = "auto"
    device: Device = "auto"
    seed: int = 0
    workers: int = 2
    checkpoint_minutes: float = 5.0
    log_every: int = 10

    def __post_init__(self) -> None:
        for name in ("data", "out", "init_from"):
            value = getattr(self, name)
            object.__setattr__(self, name, Path(value) if value is not None else None)
        for name in ("epochs", "image_size", "log_every"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        self._require(
            "batch_size", self.batch_size >= 2 and self.batch_size % 2 == 0, "an even number above 0"
        )
        for name in ("lr", "clip_norm"):
            self._require(name, 0 < getattr(self, name) < math.inf, "a finite number above 0")
        for name in (
            "weight_decay",
            "warmup_epochs",
            "mixup",
            "cutmix",
            "checkpoint_minutes",
            "workers",
            "seed",
        ):
            self._require(name, 0 <= getattr(self, name) < math.inf, "a finite number, 0 or more")
        for name in ("ema", "label_smoothing", "jitter"):
            self._require(name, 0 <= getattr(self, name) < 1, "at least 0 and below 1")
        self._require("erase", 0 <= self.erase <= 1, "from 0 to 1")
        self._require("crop_min_area", 0 < self.crop_min_area <= 1, "above 0 and at most 1")
        for name, options in (("optimizer", Optimizer), ("precision", Precision), ("device", Device)):
            if getattr(self, name) not in get_args(options):
                hint = did_you_mean(str(getattr(self, name)), get_args(options))
                raise ConfigError(f"The pre-training setting {name} is {getattr(self, name)!r}. {hint}")

    def _require(self, name: str, holds: bool, allowed: str) -> None:
        # A comparison with nan is false, so nan fails every one of these checks.
        if not holds:
            raise ConfigError(
                f"The pre-training setting {name} is {getattr(self, name)!r}; it must be {allowed}."
            )

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON values."""
        values = dataclasses.asdict(self)
        return {key: str(value) if isinstance(value, Path) else value for key, value in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PretrainConfig:
        """Settings from what `to_dict` gave, or from a part of it.

        Args:
            values: Setting names and values; what is not named has its default.

        Raises:
            ConfigError: If a name is unknown, one without a default is absent, or a value is out of range.
        """
        known = {item.name: item for item in dataclasses.fields(cls)}
        for name in values:
            if name not in known:
                raise ConfigError(f"There is no pre-training setting '{name}'. {did_you_mean(name, known)}")
        for name in ("data", "out"):
            if name not in values:
                raise ConfigError(f"The pre-training setting '{name}' is missing; it has no default.")
        return cls(**values)

    def command(self) -> str:
        """The command that repeats this run, with folder names in place of this machine's paths."""
        words = ["vitune", "pretrain", f"data/{self.data.name}"]
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if item.name == "data" or (item.default is not dataclasses.MISSING and value == item.default):
                continue
            flag = f"--{item.name.replace('_', '-')}"
            if item.name == "model_args":
                for key, argument in value.items():
                    text = argument if isinstance(argument, str) else json.dumps(argument)
                    words += [flag, f"{key}={text}"]
            elif isinstance(value, bool):
                words.append(flag if value else f"--no-{flag[2:]}")
            else:
                words += [flag, f"runs/{value.name}" if isinstance(value, Path) else str(value)]
        return shlex.join(words)
