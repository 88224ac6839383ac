"""The table of trials: one row each, typed."""

from pathlib import Path

import pytest

from vitune.bench import TrialRunner
from vitune.bench.parquet_file import RESULTS_FILE, trial_row, write_trials
from vitune.errors import ConfigError, RunError

from .fakes import trial

parquet = pytest.importorskip("pyarrow.parquet")


def test_a_row_for_every_trial_with_typed_columns(runner: TrialRunner, tmp_path: Path):
    trials = [
        trial(lr=1, warmup_epochs=1.0, betas=[0.9, 0.999], epochs=2),
        trial(lr=2.5, seed=1, stage="final", fit_memory=None, early_stop=None, ema=None),
        trial(lr=1e38, seed=2, diverges=True),
    ]
    outcomes = runner.finish(trials)
    path = tmp_path / RESULTS_FILE
    assert write_trials(path, outcomes, more={trials[1].id: {"task": "digits", "chosen": True}})
    table = parquet.read_table(path)
    types = {field.name: str(field.type) for field in table.schema}
    assert types["seed"] == types["costs.trained_parameters"] == types["settings.epochs"] == "int64"
    assert types["settings.lr"] == types["val.accuracy"] == types["seconds"] == "double"
    assert types["settings.warmup_epochs"] == "double", "1.0 is stored as 1, but the setting is a number"
    assert types["settings.early_stop"] == "int64", "by the setting's own type, where no trial has one"
    assert types["settings.ema"] == "double"
    assert types["settings.fit_memory"] == types["error.message"] == types["settings.betas"] == "string"
    assert types["chosen"] == types["settings.diverges"] == "bool"
    rows = table.to_pylist()
    assert [row["trial"] for row in rows] == [each.id for each in trials]
    assert [row["status"] for row in rows] == ["finished", "finished", "failed"]
    assert [row["task"] for row in rows] == [None, "digits", None]
    assert rows[0]["settings.betas"] == "[0.9, 0.999]"
    assert rows[0]["val.accuracy"] == outcomes[0].result["metrics"]["val"]["accuracy"]
    assert (rows[1]["test.accuracy"] is not None, rows[1]["val.accuracy"]) == (True, None)
    assert (rows[2]["error.type"], rows[2]["val.accuracy"]) == ("FloatingPointError", None)
    assert [row["settings.lr"] for row in rows] == [1.0, 2.5, 1e38], "no whole number, however large"
    assert all((tmp_path / row["file"]).is_file() for row in rows)


def test_a_file_elsewhere_keeps_its_whole_path(runner: TrialRunner, tmp_path: Path):
    (outcome,) = runner.finish([trial()])
    assert trial_row(outcome, tmp_path / "other")["file"] == outcome.path.as_posix()


def test_without_pyarrow_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def absent(module: str, extra: str, purpose: str) -> None:
        raise ConfigError("not installed")

    monkeypatch.setattr("vitune.bench.parquet_file.require", absent)
    assert not write_trials(tmp_path / RESULTS_FILE, [])
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written(runner: TrialRunner, tmp_path: Path):
    (tmp_path / RESULTS_FILE).mkdir()
    with pytest.raises(RunError, match=r"results.parquet' cannot be written: .+; free the place"):
        write_trials(tmp_path / RESULTS_FILE, runner.finish([trial()]))
    assert {entry.name for entry in tmp_path.iterdir()} == {RESULTS_FILE, "trials"}
