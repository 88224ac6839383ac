from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from vitune.bench import TrialOutcome, TrialRunner, ValidationResult, select
from vitune.errors import ConfigError, RunError

from .fakes import trial


def result(lr: float, **metrics: Any) -> ValidationResult:
    return ValidationResult(trial(lr=lr), metrics, Path(f"{lr}.json"))


def test_the_most_accurate_then_the_least_loss_then_the_first():
    a, b, c = result(1, accuracy=0.8), result(2, accuracy=0.9, loss=0.4), result(3, accuracy=0.9, loss=0.3)
    assert select([a, b, c]) is c
    assert select([b, a]) is b
    assert select([result(4, accuracy=0.9), b]) is b
    first, second = result(5, accuracy=0.5), result(6, accuracy=0.5)
    assert select([first, second]) is first


def test_another_metric():
    assert select([result(1, f1=0.1), result(2, f1=0.2)], metric="f1").trial.settings["lr"] == 2


def test_nothing_of_the_test_split_gets_through(tmp_path: Path):
    content = {"metrics": {"val": {"accuracy": 0.5}, "test": {"accuracy": 0.9}}, "costs": {}}
    outcome = TrialOutcome(trial(), tmp_path / "result.json", content, None)
    stripped = ValidationResult.of(outcome)
    assert stripped.metrics == {"accuracy": 0.5}
    assert [field.name for field in fields(stripped)] == ["trial", "metrics", "path"]


def test_what_cannot_be_chosen_from(runner: TrialRunner, tmp_path: Path):
    with pytest.raises(ConfigError, match="is a final one; settings are chosen from 'select' trials"):
        ValidationResult.of(runner.finish([trial(stage="final")])[0])
    with pytest.raises(RunError, match=r"failed, see '.*error\.json'"):
        ValidationResult.of(runner.finish([trial(diverges=True)])[0])
    with pytest.raises(RunError, match="has no validation metrics"):
        ValidationResult.of(TrialOutcome(trial(), tmp_path, {"metrics": {"val": None}}, None))
    with pytest.raises(ConfigError, match="there is no result to choose from"):
        select([])
    with pytest.raises(RunError, match=r"'1\.json' has no number metrics\.val\.accuracy; found \['loss'\]"):
        select([result(1, loss=0.1)])
