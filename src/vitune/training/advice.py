"""What there is to say about settings before a run: the default learning rate, and settings without
effect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vitune.training.config import TrainConfig

FALLBACK_LR = 1e-3
_DEFAULT = TrainConfig()


def learning_rate(config: TrainConfig, methods: Sequence[Any]) -> float:
    """The peak learning rate: that of the settings, or else the smallest default of the methods that train something.

    Args:
        config: Settings of the run.
        methods: The methods, each of which may have a `default_lr`.
    """
    if config.lr is not None:
        return config.lr
    training = [method for method in methods if not getattr(method, "acts_on_others", False)] or methods
    return min((getattr(method, "default_lr", FALLBACK_LR) for method in training), default=FALLBACK_LR)


def settings_without_effect(config: TrainConfig, *, has_validation: bool) -> list[str]:
    """Sentences about settings that were changed from their default but do nothing in this run.

    Args:
        config: Settings of the run.
        has_validation: Whether there are validation images.
    """
    found: list[str] = []

    def idle(name: str, reason: str) -> None:
        if getattr(config, name) != getattr(_DEFAULT, name):
            found.append(f"The setting {name} has no effect: {reason}.")

    if config.optimizer == "adamw":
        idle("momentum", "adamw has betas in its place")
    else:
        idle("betas", "sgd has momentum in its place")
    if config.schedule == "constant":
        for name in ("min_lr", "cosine_from", "cooldown_epochs"):
            idle(name, "the schedule is constant")
    if config.warmup_epochs == 0:
        idle("warmup_lr", "there is no warm-up")
    if config.weight_decay == 0:
        idle("decay_vectors", "weight_decay is 0")
    if config.layer_decay is not None:
        idle("decay_vectors", "with layer_decay only matrices decay")
    if not has_validation:
        for name in ("early_stop", "eval_every"):
            idle(name, "there are no validation images")
    if config.batch_size == 1:
        for name in ("mixup", "cutmix"):
            idle(name, "a batch of one image has nothing to mix")
    return found
