"""Which memory level a run takes, and into how many parts its batches are cut, when the user leaves it open."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from accelerate import Accelerator

from vitune.errors import ConfigError
from vitune.lean import LEVELS, Level
from vitune.measure import forecast_memory, forecast_peak, return_freed_memory
from vitune.training import moments
from vitune.training.config import TrainConfig
from vitune.tuned import Tuned

# `fast` costs some Python per operation, which small models would feel; what it saves there is not worth that.
FAST_FROM = 256 * 2**20

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}


@dataclass(frozen=True)
class Fit:
    """The first setting whose forecast is within a limit.

    Attributes:
        level: The memory level.
        accumulate: Parts that every batch is cut into.
        forecast: Bytes that a step holds.
    """

    level: Level
    accumulate: int
    forecast: int


def first_that_fits(
    peak: Callable[[Level, int], int],
    levels: Sequence[Level],
    images: int,
    limit: int,
    *,
    accumulate: int = 1,
) -> Fit | int:
    """Try memory levels, then ever smaller parts of a batch at the two leanest of them.

    Computing again costs less than cutting batches where steps are short; so first the levels, then the parts.

    Args:
        peak: Bytes that a step holds at a level with so many images.
        levels: From the fastest to the leanest.
        images: Images of a part to begin with.
        limit: Bytes.
        accumulate: Parts to begin with.

    Returns:
        The setting, or the least number of bytes if none fits.
    """
    tried: list[int] = []
    while True:
        for level in levels:
            tried.append(peak(level, images))
            if tried[-1] <= limit:
                return Fit(level, accumulate, tried[-1])
        if images == 1:
            return min(tried)
        accumulate, images = 2 * accumulate, -(-images // 2)
        levels = levels[-2:]


def parse_bytes(text: str, name: str = "fit_memory") -> int:
    """A size such as `4GB`, `800MiB` or `1.5G` in bytes.

    Args:
        text: The size.
        name: What it is the size of, for the error.

    Raises:
        ConfigError: If it is not one.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]I?)?B?\s*", text.upper())
    if found is None or float(found[1]) == 0:
        raise ConfigError(f"{name} is '{text}'; write a size such as 4GB or 800MiB.")
    return int(float(found[1]) * _UNITS[found[2] or ""])


def plan_memory(
    tuned: Tuned, config: TrainConfig, input_size: tuple[int, ...], accelerator: Accelerator
) -> tuple[TrainConfig, str | None]:
    """Settle what the settings leave open, and put the model on the level.

    Args:
        tuned: The model; gets the level.
        config: Settings; `memory` may be "auto", `fit_memory` a size.
        input_size: Channels, height, width.
        accelerator: Precision and processes.

    Returns:
        The settings with a level and `accumulate` in them, and a sentence on what was chosen, if it was.

    Raises:
        ConfigError: If nothing fits; names the smallest forecast.
    """
    precision = {"no": "fp32"}.get(accelerator.mixed_precision, accelerator.mixed_precision)
    part = -(-config.batch_size // (config.accumulate * accelerator.num_processes))

    def peak(level: Level, images: int) -> int:
        tuned.memory = level
        found = []
        for setting in moments.pass_settings(tuned.policies):
            with setting:
                found.append(
                    forecast_peak(
                        tuned.model,
                        (images, *input_size),
                        optimizer=config.optimizer,
                        precision=precision,  # type: ignore[arg-type]
                    )
                )
        return max(found)

    if config.fit_memory is None:
        level: Level = "stock" if config.memory == "auto" else config.memory
        tuned.memory = level
        if config.memory == "auto":
            saved = forecast_memory(tuned.model, (part, *input_size), precision=precision)  # type: ignore[arg-type]
            level = "fast" if saved.saved_activations >= FAST_FROM else "stock"
            tuned.memory = level
        return replace(config, memory=level), None

    limit = parse_bytes(config.fit_memory)
    levels = LEVELS if config.memory == "auto" else (config.memory,)
    found = first_that_fits(peak, levels, part, limit, accumulate=config.accumulate)
    if isinstance(found, int):
        raise ConfigError(
            f"fit_memory {config.fit_memory}: the least that a step of this model holds is "
            f"{found / 1e9:.2f} GB; take a smaller model or image, or a method that trains less."
        )
    chosen = replace(config, memory=found.level, accumulate=found.accumulate)
    return chosen, _sentence(chosen, found.forecast, limit, config)


def hold_to_plan(config: TrainConfig, accelerator: Accelerator) -> str | None:
    """On a CPU, make the process hold no more than its tensors where the user gave a limit.

    Args:
        config: Settings; acts where `fit_memory` is set.
        accelerator: Knows the device.

    Returns:
        A sentence on what was done, if anything.
    """
    if config.fit_memory is None or accelerator.device.type != "cpu" or not return_freed_memory():
        return None
    return (
        "to keep to it, freed memory goes back to the system at once, which makes steps on a CPU longer (measured: "
        "20 to 50 %); without fit_memory a process holds up to half more than its forecast."
    )


def _sentence(chosen: TrainConfig, forecast: int, limit: int, asked: TrainConfig) -> str:
    cut = (
        ""
        if chosen.accumulate == asked.accumulate
        else f" and every batch cut into {chosen.accumulate} parts"
    )
    return (
        f"to fit {limit / 1e9:.2f} GB: memory {chosen.memory}{cut}; a step holds at most {forecast / 1e9:.2f} GB "
        f"by forecast, the framework itself not counted."
    )
