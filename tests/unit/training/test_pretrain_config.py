from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from vitune.errors import ConfigError
from vitune.training.pretrain_config import PretrainConfig


def config(**changes: Any) -> PretrainConfig:
    return PretrainConfig(data=Path("images"), out=Path("run"), **changes)


def test_the_settings_go_through_json():
    settings = config(init_from=Path("first"), model_args={"patch_size": 8}, flip=False)
    assert PretrainConfig.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs is 0; it must be at least 1"),
        ({"batch_size": 3}, "batch_size is 3; it must be an even number above 0"),
        ({"lr": 0.0}, "lr is 0.0; it must be a finite number above 0"),
        ({"lr": math.nan}, "lr is nan; it must be a finite number above 0"),
        ({"mixup": -1.0}, "mixup is -1.0; it must be a finite number, 0 or more"),
        ({"ema": 1.0}, "ema is 1.0; it must be at least 0 and below 1"),
        ({"erase": 1.5}, "erase is 1.5; it must be from 0 to 1"),
        ({"crop_min_area": 0.0}, "crop_min_area is 0.0; it must be above 0 and at most 1"),
        ({"optimizer": "adam"}, "optimizer is 'adam'. Did you mean 'adamw'?"),
        ({"precision": "bf"}, "precision is 'bf'. Did you mean 'bf16'?"),
        ({"device": "cpuu"}, "device is 'cpuu'. Did you mean 'cpu'?"),
    ],
)
def test_a_bad_value_is_named(changes: dict[str, Any], message: str):
    with pytest.raises(ConfigError) as caught:
        config(**changes)
    assert message in str(caught.value)


def test_an_unknown_setting_gets_the_nearest():
    with pytest.raises(ConfigError, match=r"no pre-training setting 'epoch'\. Did you mean 'epochs'\?"):
        PretrainConfig.from_dict({"data": "a", "out": "b", "epoch": 1})


def test_a_setting_without_default_is_asked_for():
    with pytest.raises(ConfigError, match="'out' is missing; it has no default"):
        PretrainConfig.from_dict({"data": "a"})


def test_the_command_names_what_is_not_default_and_no_folder_of_this_machine():
    settings = PretrainConfig(
        data=Path("/home/me/tiny-imagenet"),
        out=Path("/scratch/second"),
        init_from=Path("/scratch/first"),
        model_args={"patch_size": 8, "qkv_bias": False, "global_pool": "avg", "img_size": [32, 48]},
        flip=False,
        mixup=0.0,
    )
    assert settings.command() == (
        "vitune pretrain data/tiny-imagenet --out runs/second --model-args patch_size=8 "
        "--model-args qkv_bias=false --model-args global_pool=avg --model-args 'img_size=[32, 48]' "
        "--init-from runs/first --mixup 0.0 --no-flip"
    )
