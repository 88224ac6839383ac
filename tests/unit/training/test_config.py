from __future__ import annotations

import math
import re
import subprocess
import sys
from typing import Any

import pytest

from vitune.errors import ConfigError
from vitune.training.config import TrainConfig


def test_survives_json() -> None:
    config = TrainConfig(lr=0.01, betas=(0.8, 0.99), ema=0.9, early_stop=3, checkpoint_minutes=None)
    assert TrainConfig.from_dict(config.to_dict()) == config


def test_a_whole_number_is_welcome_where_a_number_is_asked_for() -> None:
    config = TrainConfig(lr=1, warmup_epochs=2)
    assert (config.lr, type(config.lr), type(config.warmup_epochs)) == (1.0, float, float)


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("lr", 0.0, "training setting lr is 0.0; it must be a finite number above 0"),
        ("lr", -1e-3, "lr is -0.001; it must be a finite number above 0"),
        ("lr", math.nan, "lr is nan; it must be a finite number above 0"),
        ("lr", math.inf, "lr is inf; it must be a finite number above 0"),
        ("batch_size", 0, "batch_size is 0; it must be at least 1"),
        ("epochs", 0, "epochs is 0; it must be at least 1"),
        ("epochs", 2.5, "epochs is 2.5; it must be a whole number"),
        ("epochs", True, "epochs is True; it must be a whole number"),
        ("lr", "fast", "lr is 'fast'; it must be a number"),
        ("memory", "small", "memory is 'small', which is not known."),
        ("fit_memory", 4, "fit_memory is 4; it must be a text"),
        ("early_stop", 0, "early_stop is 0; it must be at least 1, or none"),
        ("drop_path", 1.0, "drop_path is 1.0; it must be at least 0 and below 1"),
        ("mixup", -0.1, "mixup is -0.1; it must be a finite number, 0 or more"),
        ("weight_decay", math.nan, "weight_decay is nan"),
        ("ema", 1.0, "ema is 1.0; it must be above 0 and below 1, or none"),
        ("layer_decay", 0.0, "layer_decay is 0.0; it must be above 0 and at most 1, or none"),
        ("betas", (0.9, 1.0), "betas is (0.9, 1.0); it must be two numbers from 0 to below 1"),
        ("betas", 0.9, "betas is 0.9; it must be two numbers"),
        ("workers", -1, "workers is -1; it must be 0 or more"),
        ("cooldown_epochs", -1, "cooldown_epochs is -1; it must be 0 or more"),
        ("warmup_lr", -1e-6, "warmup_lr is -1e-06; it must be a finite number, 0 or more, or none"),
        ("lr_every", "epochs", "lr_every is 'epochs', which is not known. Did you mean 'epoch'?"),
        ("cosine_from", "strat", "Did you mean 'start'?"),
        ("drop_last", 1, "drop_last is 1; it must be true or false"),
        ("optimizer", "adam", "optimizer is 'adam', which is not known. Did you mean 'adamw'?"),
        ("augment", "ligth", "Did you mean 'light'?"),
        ("precision", "fp8", "precision is 'fp8', which is not known."),
    ],
)
def test_refuses_a_value(setting: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        TrainConfig(**{setting: value})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": 1e-3, "min_lr": 1e-2}, "min_lr 0.01 is above lr 0.001; make it smaller than lr."),
        ({"lr": 1e-3, "warmup_lr": 1e-2}, "warmup_lr 0.01 is above lr 0.001; make it smaller than lr."),
        (
            {"epochs": 5, "cooldown_epochs": 4},
            "cooldown_epochs 4 and warmup_epochs 1 leave nothing of 5 epochs; use less.",
        ),
        ({"batch_size": 2, "accumulate": 3}, "accumulate 3 cuts a batch of 2 into parts without images"),
        ({"epochs": 5, "warmup_epochs": 5}, "warmup_epochs 5 leaves nothing of 5 epochs; use less."),
    ],
)
def test_refuses_contradictions(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        TrainConfig(**settings)


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"There is no training setting 'epoch'\. Did you mean 'epochs'\?"):
        TrainConfig.from_dict({"epoch": 3})


def test_the_settings_need_no_torch() -> None:
    code = "import sys, vitune.training; vitune.training.TrainConfig(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
