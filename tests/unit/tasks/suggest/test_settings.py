"""Limits and settings: what is read, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from vitune.errors import ConfigError, NothingMatchedError
from vitune.methods import all_methods, parse
from vitune.tasks.request import DataSettings
from vitune.tasks.suggest import METHODS, Limits, SuggestSettings
from vitune.tasks.suggest.settings import SIZES

DATA = DataSettings(path=Path("flowers"))


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("20min", 1200), ("1.5 h", 5400), ("2d", 172800)])
def test_times_are_read(text: str, seconds: float) -> None:
    assert Limits(time=text).seconds() == seconds


@pytest.mark.parametrize(
    ("text", "count"), [("100000", 100000), ("100k", 100000), ("1.5M", 1500000), ("1,000", 1000)]
)
def test_counts_are_read(text: str, count: int) -> None:
    assert Limits(parameters=text).count() == count


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"time": "20"}, "fit_time is '20'; write a time such as 20min, 90s or 2h."),
        ({"time": "0min"}, "fit_time is '0min'"),
        ({"parameters": "many"}, "fit_params is 'many'; write a number such as 100000, 100k or 1.5M."),
        ({"disk": "small"}, "fit_disk is 'small'; write a size such as 4GB"),
        ({"memory": "4TB"}, "fit_memory is '4TB'; write a size such as 4GB"),
    ],
)
def test_what_is_no_limit_is_named(limits: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        Limits(**limits)  # type: ignore[arg-type]
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, not 0"),
        ({"batch_size": -1}, "batch_size must be at least 1, not -1"),
        ({"measure_seconds": 0.0}, "must be above 0 seconds, not 0"),
        ({"methods": ()}, "at least one method"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SuggestSettings(data=DATA, **settings)  # type: ignore[arg-type]


def test_an_unknown_method_is_named() -> None:
    with pytest.raises(NothingMatchedError, match="no method 'loar'"):
        SuggestSettings(data=DATA, methods=("loar",))


def test_methods_and_their_sizes_are_there() -> None:
    known = all_methods()
    assert len(METHODS) == 15
    assert set(METHODS) <= set(known)
    for name, size in SIZES.items():
        assert isinstance(getattr(parse(name)[0], size), int), (name, size)
