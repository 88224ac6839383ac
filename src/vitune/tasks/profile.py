"""What methods cost on a backbone, side by side: counted exactly, and timed where asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from vitune import backbones
from vitune.adapters import stored_bytes
from vitune.errors import ConfigError, did_you_mean
from vitune.lean import LEVELS, Level
from vitune.measure import (
    compare_seconds,
    count_flops,
    forecast_memory,
    forecast_peak,
    machine,
    peak_memory,
    versions,
    weightless_copy,
)
from vitune.methods import parse
from vitune.training import moments
from vitune.tuned import Tuned, apply

FULL = "full"
STOCK: Level = "stock"


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
        peak_bytes: The same, measured.
        step_seconds: Median of forward and backward of the batch.
        step_ratio: Over stock full fine-tuning in the same run: median, smallest, largest.
        inference_ratio: At inference, merged where the method merges, over the plain backbone: median, smallest,
            largest.
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


@dataclass(frozen=True)
class ProfileResult:
    """All rows, and where they come from.

    Attributes:
        settings: What was profiled.
        rows: Stock full fine-tuning first, then each method at each level.
    """

    settings: ProfileSettings
    rows: tuple[ProfileRow, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON values, with machine and versions."""
        return {
            "settings": asdict(self.settings),
            "rows": [asdict(row) for row in self.rows],
            "machine": machine(),
            "versions": versions(),
        }


def profile(settings: ProfileSettings, tell: Callable[[str], None] = lambda text: None) -> ProfileResult:
    """Count, and where asked for time, methods on a backbone; stock full fine-tuning is always the first row.

    Args:
        settings: What to profile.
        tell: Is told what is being measured.

    Raises:
        VituneError: If a method does not fit the backbone, or the backbone cannot be counted.
    """
    wanted: list[tuple[str, Level]] = [
        (FULL, STOCK),
        *((method, level) for method in settings.methods for level in settings.levels),
    ]
    wanted = list(dict.fromkeys(wanted))
    rows: list[ProfileRow] = []
    for method, level in wanted:
        tell(f"counting {method}, memory {level}")
        rows.append(_counted(settings, method, level))
    if settings.peak:
        for i, (method, level) in enumerate(wanted):
            tell(f"measuring the peak of {method}, memory {level}")
            measured = peak_memory(partial(_one_step, settings, method, level), device=settings.device)
            rows[i] = _with(rows[i], peak_bytes=measured.increase)
    if settings.rounds:
        tell(f"timing {len(wanted)} steps, {settings.rounds} rounds")
        rows = _timed(settings, wanted, rows)
    return ProfileResult(settings, tuple(rows))


def _with(row: ProfileRow, **values: Any) -> ProfileRow:
    return ProfileRow(**{**asdict(row), **values})


def _tuned(settings: ProfileSettings, method: str, level: Level, *, weights: bool) -> Tuned:
    """Random weights: costs do not depend on values. Without `weights` the model takes no memory."""
    with torch.device("cpu" if weights else "meta"):
        model = backbones.create(
            settings.model, num_classes=settings.classes, pretrained=False, img_size=settings.image_size
        )
    tuned = apply(model, parse(method), check=weights)
    tuned.memory = level
    return tuned


def _deployed(settings: ProfileSettings, method: str, *, weights: bool) -> torch.nn.Module:
    """The model as it is used after training: a plain one where the method merges."""
    tuned = _tuned(settings, method, STOCK, weights=weights)
    merges = all(one.merges for one in tuned.methods)
    return (tuned.merge() if merges else tuned.model).eval()


def _shape(settings: ProfileSettings, tuned: Tuned) -> tuple[int, ...]:
    return (settings.batch_size, *tuned.anatomy.input_size)


def _counted(settings: ProfileSettings, method: str, level: Level) -> ProfileRow:
    tuned = _tuned(settings, method, level, weights=False)
    shape = _shape(settings, tuned)
    saved, peaks, step = [], [], 0
    for setting in moments.pass_settings(tuned.policies):
        with setting:
            saved.append(_saved(settings, tuned, shape))
            peaks.append(
                forecast_peak(tuned.model, shape, precision=settings.precision, device=settings.device)
            )
            with weightless_copy(tuned.model, device=settings.device) as twin:
                images, labels = torch.zeros(shape), torch.zeros(shape[0], dtype=torch.long)
                images, labels = images.to(settings.device), labels.to(settings.device)
                step += count_flops(partial(_step, twin.train(), images, labels))
    deployed = _deployed(settings, method, weights=False)
    with weightless_copy(deployed, device=settings.device) as twin, torch.no_grad():
        images = torch.zeros(shape).to(settings.device)
        forward = count_flops(lambda: twin(images))
    return ProfileRow(
        method=method,
        memory=level,
        trained_parameters=tuned.costs().trained_parameters,
        adapter_bytes=stored_bytes(tuned),
        forward_flops=forward // shape[0],
        step_flops=step // shape[0],
        saved_activation_bytes=max(saved),
        forecast_bytes=max(peaks),
    )


def _saved(settings: ProfileSettings, tuned: Tuned, shape: tuple[int, ...]) -> int:
    forecast = forecast_memory(tuned.model, shape, precision=settings.precision, device=settings.device)
    return forecast.saved_activations


def _step(model: torch.nn.Module, images: Tensor, labels: Tensor) -> None:
    _loss(model, images, labels).backward()


def _loss(model: torch.nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    from vitune.anatomy import logits

    return F.cross_entropy(logits(model, images).float(), labels)


def _batch(settings: ProfileSettings, tuned: Tuned) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(_shape(settings, tuned), generator=generator)
    labels = torch.arange(settings.batch_size) % settings.classes
    return images.to(settings.device), labels.to(settings.device)


class _Step:
    """Forward and backward of one batch, and the optimizer's step where it is part of the question."""

    def __init__(self, settings: ProfileSettings, tuned: Tuned) -> None:
        self.settings, self.tuned = settings, tuned
        self.tuned.model.to(settings.device)
        self.images, self.labels = _batch(settings, tuned)
        self.dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(settings.precision)

    def autocast(self) -> torch.autocast:
        """The precision that was asked for."""
        return torch.autocast(self.settings.device, dtype=self.dtype, enabled=self.dtype is not None)

    def __call__(self) -> None:
        model = self.tuned.model.train()
        with self.autocast():
            loss = _loss(model, self.images, self.labels)
        loss.backward()
        model.zero_grad(set_to_none=True)


def _one_step(settings: ProfileSettings, method: str, level: Level) -> None:
    """What a training step holds, in a process of its own: weights, optimizer state, the step."""
    tuned = _tuned(settings, method, level, weights=True)
    step = _Step(settings, tuned)
    optimizer = torch.optim.AdamW(tuned.parameters())
    for _ in range(2):  # the optimizer's state is there from the second step on
        with step.autocast():
            loss = _loss(tuned.model.train(), step.images, step.labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def _timed(
    settings: ProfileSettings, wanted: Sequence[tuple[str, Level]], rows: list[ProfileRow]
) -> list[ProfileRow]:
    synchronize = torch.cuda.synchronize if settings.device == "cuda" else None
    steps = {f"{m} {level}": _Step(settings, _tuned(settings, m, level, weights=True)) for m, level in wanted}
    base = f"{FULL} {STOCK}"
    training = compare_seconds(dict(steps), rounds=settings.rounds, synchronize=synchronize)
    step = steps[base]
    models = {method: _deployed(settings, method, weights=True).to(settings.device) for method, _ in wanted}

    def infer(model: torch.nn.Module) -> None:
        with torch.no_grad(), step.autocast():
            model(step.images)

    forwards = {method: partial(infer, model) for method, model in models.items()}
    inference = compare_seconds(forwards, rounds=settings.rounds, synchronize=synchronize)
    timed = []
    for row, name in zip(rows, steps, strict=True):
        ratio = training[name].ratio_to(training[base])
        forward = inference[row.method].ratio_to(inference[FULL])
        timed.append(
            _with(
                row,
                step_seconds=training[name].median,
                step_ratio=(ratio.median, ratio.low, ratio.high),
                inference_ratio=(forward.median, forward.low, forward.high),
            )
        )
    return timed


def write_profile(result: ProfileResult, path: Path) -> None:
    """Write a result as JSON; the file is whole or absent.

    Args:
        result: The result.
        path: The file; its folder must exist.
    """
    import json

    from vitune.durable import replace_file

    text = json.dumps(result.as_dict(), indent=1) + "\n"
    replace_file(path, lambda temporary: temporary.write_text(text))
