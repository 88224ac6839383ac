import json
import re

import pytest

from vitune.bench import Trial
from vitune.errors import ConfigError, RunError

from .fakes import trial


def test_the_id_is_readable_and_the_same_for_ever():
    assert trial().id == trial().id
    assert re.fullmatch(r"digits-lora_rank_4-select-s0-[0-9a-f]{16}", trial().id)
    # Written down: folders of earlier runs must be found again.
    assert trial(lr=0.001, epochs=10).id == "digits-lora_rank_4-select-s0-e56206fcf7e5bee9"


def test_every_field_changes_the_id():
    fields = trial().as_dict()
    other = {
        "data": "cats",
        "model": "small",
        "methods": "ssf",
        "settings": {"lr": 2},
        "seed": 1,
        "protocol": "large",
        "stage": "final",
        "train_split": "train800val200",
    }
    assert other.keys() == fields.keys()
    assert (
        len({Trial(**{**fields, key: value}).id for key, value in other.items()} | {trial().id})
        == len(other) + 1
    )


def test_equal_settings_make_equal_trials():
    a = trial(lr=1, betas=(0.9, 1), nested={"x": 2.0})
    b = trial(lr=1.0, nested={"x": 2}, betas=[0.9, 1.0])
    assert a == b
    assert hash(a) == hash(b)
    assert a != trial(lr=2)
    assert a != "a"


def test_the_callers_mapping_may_change_later():
    settings = {"lr": 1}
    one = Trial(data="d", model="m", methods="ssf", settings=settings, protocol="p", stage="final")
    before = one.id
    settings["lr"] = 2
    assert one.id == before


def test_there_and_back_through_json():
    one = trial(lr=0.1, seed=3, stage="final", schedule=None)
    assert Trial.from_dict(json.loads(json.dumps(one.as_dict()))) == one


def test_wrong_trials():
    with pytest.raises(ConfigError, match="unknown stage 'test'; use 'select' or 'final'"):
        trial(stage="test")
    with pytest.raises(ConfigError, match=r"settings must be finite JSON values, got .*nan"):
        trial(lr=float("nan"))
    with pytest.raises(ConfigError, match="settings must be finite JSON values"):
        trial(x={1, 2})
    with pytest.raises(ConfigError, match="a key is not a string"):
        trial(x={1: 2})
    with pytest.raises(RunError, match=r"Not the description of a trial .*found the keys \['colour'\]"):
        Trial.from_dict({"colour": 1})
