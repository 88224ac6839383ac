"""The trial runner with real processes: racing each other, and killed without warning."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

import vitune

TRIALS = 2 * (3 + 3)
STEPS = 10
SCRIPT = Path(__file__).with_name("race.py")


def start(folder: Path, table: str, step_seconds: float = 0.001, *more: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(Path(vitune.__file__).parents[1])}
    arguments = [folder / "trials", folder / "log", folder / table, step_seconds, *more]
    return subprocess.Popen([sys.executable, str(SCRIPT), *map(str, arguments)], env=environment)


def log(folder: Path) -> list[list[str]]:
    path = folder / "log"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def kill_after(folder: Path, process: subprocess.Popen[bytes], lines: int) -> None:
    """Kill -9 once the log has so many lines."""
    for _ in range(3000):
        if len(log(folder)) >= lines:
            break
        assert process.poll() is None, "the process ended before it could be killed"
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert len(log(folder)) >= lines


def tables(folder: Path) -> set[str]:
    return {path.read_text() for path in folder.glob("table*")}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("whole")
    assert start(folder, "table").wait() == 0
    (table,) = tables(folder)
    assert table.count("[0](") == table.count("[1](") == table.count("[2](") == 2
    return table


def test_processes_over_one_folder_do_every_trial_once(tmp_path: Path, expected: str):
    processes = [start(tmp_path, f"table{i}") for i in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert len(list(tmp_path.glob("table*"))) == 3
    assert tables(tmp_path) == {expected}
    starts = Counter(line[1] for line in log(tmp_path) if line[0] == "start")
    assert (len(starts), set(starts.values())) == (TRIALS, {1})


@pytest.mark.parametrize("lines", [1, 17, 80])
def test_killed_at_any_moment_it_goes_on_where_it_was(tmp_path: Path, expected: str, lines: int):
    kill_after(tmp_path, start(tmp_path, "never", step_seconds=0.005), lines)
    assert not (tmp_path / "never").exists()
    assert start(tmp_path, "table").wait() == 0
    assert tables(tmp_path) == {expected}
    # At most the one step in flight was repeated: finished steps and finished trials were not.
    steps = Counter(tuple(line[1:]) for line in log(tmp_path) if line[0] == "step")
    assert len(steps) == TRIALS * STEPS
    assert sum(steps.values()) - len(steps) <= 1


def test_several_processes_take_over_from_a_dead_one_with_one_winner(tmp_path: Path, expected: str):
    kill_after(tmp_path, start(tmp_path, "never", step_seconds=0.005), 5)
    dead = log(tmp_path)[0][1]
    processes = [start(tmp_path, f"table{i}") for i in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    assert tables(tmp_path) == {expected}
    # A process that looked before the winner finished and claimed after it released has an attempt of its
    # own; it sees the result and runs nothing. So attempts may be more than two, but starts may not.
    attempts = tmp_path / "trials" / dead / "attempts"
    assert {entry.name for entry in attempts.iterdir() if entry.name.isdecimal()} >= {"0", "1"}
    result = json.loads((tmp_path / "trials" / dead / "result.json").read_text())
    assert result["attempts"] == 2
    starts = Counter(line[1] for line in log(tmp_path) if line[0] == "start")
    assert starts.pop(dead) == 2
    assert (len(starts), set(starts.values())) == (TRIALS - 1, {1})


@pytest.mark.slow
def test_a_search_by_optuna_that_was_killed_and_taken_over_gives_the_same_table(tmp_path: Path):
    pytest.importorskip("optuna")
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    for folder in (whole, torn):
        folder.mkdir()
    assert start(whole, "table", 0.001, "optuna").wait() == 0
    (expected,) = tables(whole)
    kill_after(torn, start(torn, "never", 0.005, "optuna"), 53)  # in the second round
    both = [start(torn, f"table{i}", 0.002, "optuna") for i in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert tables(torn) == {expected}
    trials = {path.name for path in (whole / "trials").iterdir()}
    assert trials == {path.name for path in (torn / "trials").iterdir()}
    assert len(trials) == 2 * (6 + 3)
    ends = Counter(line[1] for line in log(torn) if line[0] == "end")
    assert (set(ends), set(ends.values())) == (trials, {1}), "every trial was finished once"
