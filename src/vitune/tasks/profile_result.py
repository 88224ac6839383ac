"""What is profiled, and what comes of it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from vitune.durable import replace_file
from vitune.errors import ConfigError, did_you_mean
from vitune.lean import LEVELS, Level
from vitune.measure import machine, versions
from vitune.methods import parse
from vitune.tasks.costing import Subject
from vitune.tasks.skipping import SkippingMeasured

FULL = "full"


@dataclass(frozen=True)
class ProfileSettings:
    """What to profile.

    Args:
        model: Backbone; None for the built-in one.
        methods: Methods, each as the command line writes them.
        levels: Memory levels; every method is profiled at each.
        batch_size: Images of a step.
        image_size: Height and width, where they differ from the architecture's.
        classes: Classes of the head.
        precision: `fp32`, or `bf16` / `fp16` for autocast.
        rounds: How often steps are timed; 0 counts only.
        peak: Whether to measure the peak memory of a step, each in a process of its own.
        device: `cpu` or `cuda`.

    Raises:
        ConfigError: If a value is not allowed.
    """

    model: str | None = None
    methods: tuple[str, ...] = (FULL, "linear", "bitfit", "lora", "ssf", "adaptformer")
    levels: tuple[Level, ...] = ("fast",)
    batch_size: int = 8
    image_size: int | None = None
    classes: int = 100
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    rounds: int = 0
    peak: bool = False
    device: Literal["cpu", "cuda"] = "cpu"

    def __post_init__(self) -> None:
        for name in ("batch_size", "classes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"profile: {name} must be at least 1, not {getattr(self, name)}.")
        if self.rounds < 0:
            raise ConfigError(f"profile: rounds must be 0 or more, not {self.rounds}.")
        if not self.methods or not self.levels:
            raise ConfigError("profile: name at least one method and one memory level.")
        for level in self.levels:
            if level not in LEVELS:
                raise ConfigError(f"profile: no memory level '{level}'. {did_you_mean(level, LEVELS)}")
        for method in self.methods:
            parse(method)
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ConfigError("profile: there is no CUDA device here; use --device cpu.")

    @property
    def subject(self) -> Subject:
        """The backbone, precision and device."""
        return Subject(self.model, self.classes, self.image_size, self.precision, self.device)


@dataclass(frozen=True)
class ProfileRow:
    """What one method costs at one memory level. Bytes are bytes, times seconds; None was not measured.

    Attributes:
        method: As the command line writes it.
        memory: The level.
        trained_parameters: The head's included.
        adapter_bytes: Of the file, without names.
        forward_flops: Per image at inference (merged where the method merges), a multiply-accumulate being two.
        step_flops: Per image, forward and backward, what is computed again included.
        saved_activation_bytes: Kept between forward and backward of the batch; of the largest pass, where a method
            makes several.
        forecast_bytes: The most that a step holds, weights and optimizer included, by counting.
        peak_bytes: The same, measured, the framework itself left out; on a CPU with freed memory returned at once.
        step_seconds: Median of forward and backward of the batch.
        step_ratio: Over stock full fine-tuning in the same run: median, smallest, largest.
        inference_ratio: At inference, merged where the method merges, over the plain backbone: median, smallest,
            largest.
        masked_flops: Like `forward_flops`, of a model that skips tokens with everything computed and masked;
            `forward_flops` counts it with as many tokens as it aims at.
        skipping: What such a model saves on images of noise, whose gates are not trained; measured with the times.
    """

    method: str
    memory: str
    trained_parameters: int
    adapter_bytes: int
    forward_flops: int
    step_flops: int
    saved_activation_bytes: int
    forecast_bytes: int
    peak_bytes: int | None = None
    step_seconds: float | None = None
    step_ratio: tuple[float, float, float] | None = None
    inference_ratio: tuple[float, float, float] | None = None
    masked_flops: int | None = None
    skipping: SkippingMeasured | None = None


@dataclass(frozen=True)
class ProfileResult:
    """All rows, and where they come from.

    Attributes:
        settings: What was profiled.
        rows: Stock full fine-tuning first, then each method at each level.
    """

    settings: ProfileSettings
    rows: tuple[ProfileRow, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """What must be known of the numbers beside them."""
        looking = [text for text in self.settings.methods if any(one.needs_data for one in parse(text))]
        return tuple(
            f"{text}: counted as it starts without data; where data decide what it edits, its numbers differ a little."
            for text in looking
        )

    def as_dict(self) -> dict[str, Any]:
        """JSON values, with machine and versions."""
        return {
            "notes": list(self.notes),
            "settings": asdict(self.settings),
            "rows": [asdict(row) for row in self.rows],
            "machine": machine(),
            "versions": versions(),
        }


def write_profile(result: ProfileResult, path: Path) -> None:
    """Write a result as JSON; the file is whole or absent.

    Args:
        result: The result.
        path: The file; its folder must exist.
    """
    text = json.dumps(result.as_dict(), indent=1) + "\n"
    replace_file(path, lambda temporary: temporary.write_text(text))
