"""A run that is stopped in whatever way and resumed ends bit-equal to one that was not."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from vitune.errors import RunError
from vitune.training import Event, fit, load_checkpoint

from .small import small_config, small_data, small_tuned


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `runs.py` reports: two workers, mixup, dropout, EMA; a checkpoint every second step of nine."""
    command = [sys.executable, str(Path(__file__).with_name("runs.py")), str(tmp_path_factory.mktemp("runs"))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("moment", "step"), [("in_an_epoch", 4), ("after_an_epoch", 2), ("inside_a_save", 4)]
)
def test_after_kill_9(runs: dict[str, Any], moment: str, step: int) -> None:
    found = runs[moment]
    assert found["exit_code"] == -signal.SIGKILL
    assert found["step"] == step  # what the last complete checkpoint holds
    assert bool(found["temporary"]) == (moment == "inside_a_save")
    assert_same_end(found["end"], runs["whole"])


def test_after_a_full_disk(runs: dict[str, Any]) -> None:
    found = runs["full_disk"]
    assert (found["exit_code"], found["step"]) == (0, 2)
    assert found["error"].startswith("The checkpoint of step 4 could not be written")
    assert "the last complete one is untouched: free space there, then resume." in found["error"]
    assert_same_end(found["end"], runs["whole"])


def test_after_ctrl_c_in_a_terminal(runs: dict[str, Any]) -> None:
    found = runs["ctrl_c"]
    assert (found["exit_code"], found["step"]) == (0, 5)
    assert_same_end(found["end"], runs["whole"])


def assert_same_end(end: dict[str, Any], whole: dict[str, Any]) -> None:
    assert end["log"] == whole["log"]
    assert end["state"] == whole["state"]
    different = [name for name, data in whole["tensors"].items() if end["tensors"].get(name) != data]
    assert not different
    assert end == whole
    for kind in ("model", "optimizer", "ema", "best"):
        assert any(name.startswith(f"{kind}/") for name in whole["tensors"])


@pytest.mark.parametrize("which", ["parallel", "parallel_passes"])
def test_two_processes_train_the_model_of_one(which: str, runs: dict[str, Any]) -> None:
    parallel = runs[which]
    assert parallel["exit_codes"] == [0, 0]
    alone, pair = parallel["alone"], parallel["pair"]
    assert alone["tensors"].keys() == pair["tensors"].keys()
    for name, values in alone["tensors"].items():
        assert pair["tensors"][name] == pytest.approx(values, abs=1e-6), name
    for ours, theirs in zip(pair["log"], alone["log"], strict=True):
        if ours["event"] == "start":
            assert (ours.pop("processes"), theirs.pop("processes")) == (2, 1)
        assert ours == pytest.approx(theirs, abs=1e-6)


def test_after_ctrl_c(tmp_path: Path) -> None:
    config = small_config(drop_path=0.1)
    whole = small_tuned(drop_rate=0.1)
    fit(whole, small_data(), config)

    def press(event: Event) -> None:
        if event.kind == "progress" and event.values["step"] == 4:
            os.kill(os.getpid(), signal.SIGINT)

    first = fit(small_tuned(drop_rate=0.1), small_data(), config, directory=tmp_path, on_event=press)
    assert (first.status, first.steps, first.best_epoch, first.validation) == ("interrupted", 4, None, None)
    checkpoint = load_checkpoint(tmp_path / "checkpoint")
    assert checkpoint is not None
    assert checkpoint.step == 4
    again = small_tuned(drop_rate=0.1)
    second = fit(again, small_data(), config, directory=tmp_path, resume=True)
    assert (second.status, second.steps) == ("finished", 9)
    assert all(torch.equal(tensor, whole.state()[name]) for name, tensor in again.state().items())


def test_a_finished_run_gives_its_result_again(tmp_path: Path) -> None:
    events: list[Event] = []
    first, second = small_tuned(), small_tuned()
    one = fit(first, small_data(), small_config(), directory=tmp_path)
    other = fit(second, small_data(), small_config(), directory=tmp_path, resume=True, on_event=events.append)
    assert other.epochs == one.epochs
    assert other.best_epoch == one.best_epoch
    assert one.validation is not None
    assert other.validation is not None
    assert other.validation.losses.tolist() == one.validation.losses.tolist()
    assert [event.kind for event in events] == ["start"]
    assert events[0].values["resumed_step"] == 9


def test_a_run_without_a_checkpoint_starts_anew(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"event": "start"}\n')
    fit(small_tuned(), small_data(), small_config(), directory=tmp_path, resume=True)
    starts = [line for line in (tmp_path / "log.jsonl").read_text().splitlines() if '"start"' in line]
    assert len(starts) == 1


def test_a_directory_with_a_run_is_not_overwritten(tmp_path: Path) -> None:
    fit(small_tuned(), small_data(), small_config(epochs=1), directory=tmp_path)
    with pytest.raises(RunError, match="holds a run already; resume it, or choose another folder"):
        fit(small_tuned(), small_data(), small_config(epochs=1), directory=tmp_path)


def test_other_settings_are_refused(tmp_path: Path) -> None:
    fit(small_tuned(), small_data(), small_config(epochs=1), directory=tmp_path)
    other = dataclasses.replace(small_config(epochs=1), seed=5)
    with pytest.raises(RunError, match="started with seed 0 and cannot be resumed with 5"):
        fit(small_tuned(), small_data(), other, directory=tmp_path, resume=True)


def test_another_model_is_refused(tmp_path: Path) -> None:
    fit(small_tuned(), small_data(), small_config(epochs=1), directory=tmp_path)
    with pytest.raises(RunError, match=r"The checkpoint is of another model or method: 'blocks\.2"):
        fit(small_tuned(depth=3), small_data(), small_config(epochs=1), directory=tmp_path, resume=True)
