"""The command that trains what was suggested."""

from __future__ import annotations

import shlex

from vitune.tasks.suggest.result import Costs
from vitune.tasks.suggest.settings import SuggestSettings
from vitune.training.config import TrainConfig

_DEFAULT = TrainConfig()


def train(settings: SuggestSettings, config: TrainConfig, method: str, costs: Costs, lr: float) -> str:
    """A line for a shell.

    Args:
        settings: Data, backbone and limits.
        config: Epochs and batch size.
        method: The method as text.
        costs: With the memory level and the parts of a batch.
        lr: Learning rate.
    """
    data = settings.data
    words = ["vitune", "train", str(data.path)]
    if settings.model.name is not None:
        words += ["--model", settings.model.name]
    words += ["--method", method, "--memory", costs.memory, "--lr", f"{lr:g}"]
    if config.epochs != _DEFAULT.epochs:
        words += ["--epochs", str(config.epochs)]
        if config.warmup_epochs != _DEFAULT.warmup_epochs:
            words += ["--set", f"warmup_epochs={config.warmup_epochs:g}"]
    if config.batch_size != _DEFAULT.batch_size:
        words += ["--batch-size", str(config.batch_size)]
    if costs.accumulate > 1:
        words += ["--set", f"accumulate={costs.accumulate}"]
    if settings.limits.memory is not None:
        words += ["--fit-memory", settings.limits.memory]
    for option, value in (
        ("--shots", data.shots),
        ("--image-column", data.image_column),
        ("--label-column", data.label_column),
        ("--precision", None if config.precision == "auto" else config.precision),
        ("--device", None if config.device == "auto" else config.device),
    ):
        if value is not None:
            words += [option, str(value)]
    return shlex.join(words)
