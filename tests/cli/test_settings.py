from __future__ import annotations

import dataclasses

import pytest

from vitune.cli.settings import read_settings, settings_of
from vitune.cli.train_request import known_settings
from vitune.errors import ConfigError
from vitune.methods import all_methods
from vitune.tasks.request import DataSettings, ModelSettings
from vitune.training import TrainConfig


@pytest.mark.parametrize("cls", [TrainConfig, DataSettings, ModelSettings, *all_methods().values()])
def test_every_setting_is_explained(cls: type) -> None:
    found = settings_of(cls)
    assert [setting.name for setting in found] == [field.name for field in dataclasses.fields(cls)]
    for setting in found:
        assert setting.explanation.endswith("."), f"{cls.__name__}.{setting.name}: {setting.explanation!r}"
        assert setting.kind
        assert setting.default


def test_defaults_are_as_they_would_be_written() -> None:
    for setting in settings_of(TrainConfig):
        value = read_settings([f"{setting.name}={setting.default}"], known_settings())[setting.name]
        assert value == getattr(TrainConfig(), setting.name)


def test_values_have_the_type_of_the_field() -> None:
    words = [
        "lr=1e-3",
        "ema=none",
        "early-stop=3",
        "memory=lean",
        "betas=0.8+0.9",
        "augment=strong",
    ]
    assert read_settings([*words, "cache=auto", "img_size=64"], known_settings()) == {
        "lr": 1e-3,
        "ema": None,
        "early_stop": 3,
        "memory": "lean",
        "betas": (0.8, 0.9),
        "augment": "strong",
        "cache": "auto",
        "img_size": 64,
    }


def test_what_has_a_place_of_its_own_is_no_setting() -> None:
    for name in ("path", "name", "weights", "method", "out", "command"):
        with pytest.raises(ConfigError, match=f"--set {name}: there is no such setting"):
            read_settings([f"{name}=x"], known_settings())
