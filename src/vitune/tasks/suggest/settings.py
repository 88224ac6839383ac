"""What is asked of `suggest`: data, backbone, methods, and the limits that a suggestion must keep."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from vitune.errors import ConfigError
from vitune.methods import parse
from vitune.tasks.memory_plan import parse_bytes
from vitune.tasks.request import DataSettings, ModelSettings
from vitune.training.config import Device, Precision

# All that stand alone, and the random suffix, which makes full fine-tuning cheaper; what else acts on other methods, or
# decides by the images what to train, is asked for by name.
METHODS = ("full", "suffix", "linear", "bitfit", "lora", "ssf", "adapter", "adaptformer", "sct")
METHODS += ("bi_adaptformer", "bi_lora", "vpt", "e2vpt", "hst", "dyt")
# Setting of each method that its size follows, and that a smaller one is looked for in.
SIZES = {
    "lora": "rank",
    "bi_lora": "rank",
    "adaptformer": "bottleneck",
    "adapter": "bottleneck",
    "bi_adaptformer": "bottleneck",
    "dyt": "bottleneck",
    "sct": "channels",
    "vpt": "prompts",
    "e2vpt": "prompts",
}
_COUNT = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}
_TIME = {"S": 1, "SEC": 1, "M": 60, "MIN": 60, "H": 3600, "D": 86400}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a suggestion must not exceed; None is no limit.

    Args:
        memory: Such as `4GB`: of a training step by forecast, the framework itself not counted.
        time: Such as `20min`: of the whole training.
        parameters: Such as `100k`: trained, the head's included.
        disk: Such as `1MB`: of the adapter's file.
        no_inference_overhead: Whether the trained model must be as quick as the plain backbone.

    Raises:
        ConfigError: If a text cannot be read.
    """

    memory: str | None = None
    time: str | None = None
    parameters: str | None = None
    disk: str | None = None
    no_inference_overhead: bool = False

    def __post_init__(self) -> None:
        for read in (self.memory_bytes, self.seconds, self.count, self.disk_bytes):
            read()

    def memory_bytes(self) -> int | None:
        """The limit of memory in bytes."""
        return None if self.memory is None else parse_bytes(self.memory)

    def disk_bytes(self) -> int | None:
        """The limit on disk in bytes."""
        return None if self.disk is None else parse_bytes(self.disk, "fit_disk")

    def seconds(self) -> float | None:
        """The limit of time in seconds."""
        if self.time is None:
            return None
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Z]+)\s*", self.time.upper())
        if found is None or found[2] not in _TIME or float(found[1]) == 0:
            raise ConfigError(f"fit_time is '{self.time}'; write a time such as 20min, 90s or 2h.")
        return float(found[1]) * _TIME[found[2]]

    def count(self) -> int | None:
        """The limit of trained parameters."""
        if self.parameters is None:
            return None
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]?)\s*", self.parameters.upper().replace(",", ""))
        if found is None or float(found[1]) == 0:
            raise ConfigError(
                f"fit_params is '{self.parameters}'; write a number such as 100000, 100k or 1.5M."
            )
        return int(float(found[1]) * _COUNT[found[2]])


@dataclass(frozen=True, kw_only=True)
class SuggestSettings:
    """What to suggest for.

    Args:
        data: The data.
        model: The backbone.
        methods: What to choose from, each as the command line writes it.
        epochs: Passes over the training images.
        batch_size: Images per step; None is 64, or fewer for fewer images.
        precision: Of computation.
        device: Where to compute.
        limits: What must fit.
        measure_seconds: About how long steps are timed.

    Raises:
        ConfigError: If a value is not allowed.
        NothingMatchedError: If a method is unknown.
    """

    data: DataSettings
    model: ModelSettings = field(default_factory=ModelSettings)
    methods: tuple[str, ...] = METHODS
    epochs: int = 20
    batch_size: int | None = None
    precision: Precision = "auto"
    device: Device = "auto"
    limits: Limits = field(default_factory=Limits)
    measure_seconds: float = 40.0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            value: Any = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"suggest: {name} must be at least 1, not {value}.")
        if not 0 < self.measure_seconds < float("inf"):
            raise ConfigError(
                f"suggest: the time to measure must be above 0 seconds, not {self.measure_seconds:g}."
            )
        if not self.methods:
            raise ConfigError("suggest: name at least one method to choose from.")
        for method in self.methods:
            parse(method)
