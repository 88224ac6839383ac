"""The settings of a training run, checked as soon as they are written down."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard, get_args, get_type_hints

from vitune.errors import ConfigError, did_you_mean

Optimizer = Literal["adamw", "sgd"]
Schedule = Literal["cosine", "constant"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Augment = Literal[
    "none", "light", "strong", "crop", "erase", "rand"
]  # the presets of `vitune.data.AugmentConfig`
LrEvery = Literal["step", "epoch", "late epoch"]
CosineFrom = Literal["warmup", "start"]
Select = Literal["best", "last"]
Device = Literal["auto", "cpu", "cuda", "mps"]
Memory = Literal["auto", "stock", "fast", "lean", "leaner", "leanest"]  # "auto", or one of vitune.lean.LEVELS


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to train; what is trained is the matter of the methods.

    Args:
        epochs: Passes over the training images (per stage, where a method has several stages).
        lr: Peak learning rate; None takes the default of the method.
        batch_size: Images per optimizer step, over all processes together.
        optimizer: "adamw" or "sgd" (with momentum, without Nesterov).
        weight_decay: Decay of matrices; biases, norms, scales and other vectors do not decay.
        decay_vectors: Whether they decay too, as in codes that give every trained tensor to one group.
        momentum: Momentum of SGD.
        betas: Decay rates of AdamW's two averages.
        schedule: "cosine" to `min_lr`, or "constant"; both after the warm-up.
        warmup_epochs: Length of the linear warm-up, in epochs.
        warmup_lr: Learning rate that the warm-up starts from; none starts at the first of its equal steps, above 0.
        min_lr: Learning rate at the end of the cosine.
        cosine_from: Where the cosine begins: after the "warmup", or at the "start", the warm-up standing in for its
            first part.
        lr_every: What the learning rate is a function of: the "step", the "epoch", or as "late epoch" the epoch
            before (the first two share one rate), as in codes that set the rate of an epoch after it.
        cooldown_epochs: The last of the epochs, which run at `min_lr`, the cosine having ended before them.
        layer_decay: Factor on the learning rate from each block to the one before it; None for none.
        clip_norm: Largest norm of the gradient of all parameters together; None for no clipping.
        drop_last: Whether to leave out the last batch of an epoch where it is not full.
        accumulate: Parts into which a batch is cut to save memory; the step is the same up to rounding.
        precision: "auto" is bf16 where the GPU or the CPU (AVX512-BF16) has it, and fp32 elsewhere.
        memory: What is kept for the backward pass and what is computed again, from "stock" through "fast", "lean" and
            "leaner" to "leanest"; gradients are the same. "auto" is "fast" where a step keeps much. See `vitune.lean`.
        fit_memory: A size such as "4GB": take the fastest level, and as few parts of a batch, that fit by forecast.
        drop_path: Rate of stochastic depth, given to the backbone when it is made.
        label_smoothing: Share of the target spread over all classes.
        mixup: Alpha of mixup; 0 is off.
        cutmix: Alpha of cutmix; 0 is off.
        augment: "none" (resize alone), "light" (random resized crop and flip), "erase" (light, and random erasing),
            "strong" (RandAugment too), "crop" (crop of one size at a random place, and flip) or "rand" (RandAugment and
            flip of the whole image).
        ema: Decay per step of the averaged weights, which are then evaluated and saved; None is off.
        select: "best" keeps the epoch with the best validation accuracy, "last" the last one.
        eval_every: Epochs between two evaluations; the last epoch is always evaluated.
        early_stop: Evaluations without improvement after which to stop; None is off.
        seed: Seed of everything random.
        workers: Processes that read images; 0 reads in the main process.
        device: "auto" takes the accelerator that there is.
        checkpoint_minutes: Minutes between two checkpoints; None for none by the clock.
        checkpoint_steps: Steps between two checkpoints; None for none by count.
        log_every: Steps between two "step" lines of the log.

    Raises:
        ConfigError: If a value is of the wrong type, out of range, or contradicts another.
    """

    epochs: int = 20
    lr: float | None = None
    batch_size: int = 64
    optimizer: Optimizer = "adamw"
    weight_decay: float = 1e-4
    decay_vectors: bool = False
    momentum: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    schedule: Schedule = "cosine"
    warmup_epochs: float = 1.0
    warmup_lr: float | None = None
    min_lr: float = 0.0
    cosine_from: CosineFrom = "warmup"
    lr_every: LrEvery = "step"
    cooldown_epochs: int = 0
    layer_decay: float | None = None
    clip_norm: float | None = None
    drop_last: bool = False
    accumulate: int = 1
    precision: Precision = "auto"
    memory: Memory = "auto"
    fit_memory: str | None = None
    drop_path: float = 0.0
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    augment: Augment = "light"
    ema: float | None = None
    select: Select = "best"
    eval_every: int = 1
    early_stop: int | None = None
    seed: int = 0
    workers: int = 2
    device: Device = "auto"
    checkpoint_minutes: float | None = 5.0
    checkpoint_steps: int | None = None
    log_every: int = 10

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for field in dataclasses.fields(self):
            object.__setattr__(
                self, field.name, _typed(field.name, getattr(self, field.name), hints[field.name])
            )
        for name in ("epochs", "batch_size", "accumulate", "eval_every", "log_every"):
            _require(name, getattr(self, name), getattr(self, name) >= 1, "at least 1")
        for name in ("early_stop", "checkpoint_steps"):
            value = getattr(self, name)
            _require(name, value, value is None or value >= 1, "at least 1, or none")
        for name in ("lr", "clip_norm", "checkpoint_minutes"):
            value = getattr(self, name)
            _require(name, value, value is None or 0 < value < math.inf, "a finite number above 0")
        for name in ("weight_decay", "warmup_epochs", "min_lr", "mixup", "cutmix"):
            _require(
                name, getattr(self, name), 0 <= getattr(self, name) < math.inf, "a finite number, 0 or more"
            )
        for name in ("momentum", "drop_path", "label_smoothing"):
            _require(name, getattr(self, name), 0 <= getattr(self, name) < 1, "at least 0 and below 1")
        _require(
            "betas", self.betas, all(0 <= beta < 1 for beta in self.betas), "two numbers from 0 to below 1"
        )
        _require("ema", self.ema, self.ema is None or 0 < self.ema < 1, "above 0 and below 1, or none")
        decay = self.layer_decay
        _require("layer_decay", decay, decay is None or 0 < decay <= 1, "above 0 and at most 1, or none")
        start = self.warmup_lr
        _require(
            "warmup_lr", start, start is None or 0 <= start < math.inf, "a finite number, 0 or more, or none"
        )
        for name in ("workers", "seed", "cooldown_epochs"):
            _require(name, getattr(self, name), getattr(self, name) >= 0, "0 or more")
        self._check_together()

    def _check_together(self) -> None:
        if self.lr is not None and self.min_lr > self.lr:
            raise ConfigError(f"min_lr {self.min_lr:g} is above lr {self.lr:g}; make it smaller than lr.")
        if self.lr is not None and self.warmup_lr is not None and self.warmup_lr > self.lr:
            raise ConfigError(
                f"warmup_lr {self.warmup_lr:g} is above lr {self.lr:g}; make it smaller than lr."
            )
        if self.cooldown_epochs and self.warmup_epochs + self.cooldown_epochs >= self.epochs:
            raise ConfigError(
                f"cooldown_epochs {self.cooldown_epochs} and warmup_epochs {self.warmup_epochs:g} leave nothing of "
                f"{self.epochs} epochs; use less."
            )
        if self.accumulate > self.batch_size:
            raise ConfigError(
                f"accumulate {self.accumulate} cuts a batch of {self.batch_size} into parts without images; "
                "use a number no larger than batch_size."
            )
        if self.schedule == "cosine" and self.warmup_epochs >= self.epochs and self.epochs > 1:
            raise ConfigError(
                f"warmup_epochs {self.warmup_epochs:g} leaves nothing of {self.epochs} epochs; use less."
            )

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON values."""
        values = dataclasses.asdict(self)
        values["betas"] = list(self.betas)
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """Settings from what `to_dict` gave, or from a part of it.

        Args:
            values: Setting names and values; what is not named has its default.

        Raises:
            ConfigError: If a name is unknown or a value is not allowed.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for name in values:
            if name not in known:
                raise ConfigError(f"There is no training setting '{name}'. {did_you_mean(name, known)}")
        return cls(**values)


def _require(name: str, value: object, holds: bool, allowed: str) -> None:
    # A comparison with nan is false, so nan fails every one of these checks.
    if not holds:
        raise ConfigError(f"The training setting {name} is {value!r}; it must be {allowed}.")


def _typed(name: str, value: Any, hint: Any) -> Any:
    """The value as the annotated type, an integer being welcome where a float is asked for."""
    options = get_args(hint)
    if options and all(isinstance(option, str) for option in options):
        if value not in options:
            hint_text = did_you_mean(str(value), options)
            raise ConfigError(f"The training setting {name} is {value!r}, which is not known. {hint_text}")
        return value
    if value is None and type(None) in options:
        return None
    if str in options:
        if isinstance(value, str):
            return value
        raise ConfigError(f"The training setting {name} is {value!r}; it must be a text.")
    if name == "betas":
        if isinstance(value, list | tuple) and len(value) == 2 and all(_is_number(beta) for beta in value):
            return (float(value[0]), float(value[1]))
        raise ConfigError(f"The training setting betas is {value!r}; it must be two numbers.")
    kind = next((option for option in options if option is not type(None)), hint)
    if kind is float and _is_number(value):
        return float(value)
    if kind is bool and isinstance(value, bool):
        return value
    if kind is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    words = {float: "a number", int: "a whole number", bool: "true or false"}
    raise ConfigError(f"The training setting {name} is {value!r}; it must be {words[kind]}.")


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
