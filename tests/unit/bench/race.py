"""One of several processes over one folder: `python race.py ROOT LOG TABLE SECONDS_PER_STEP [optuna]`.

Every trial takes ten steps; each is written to the trial's own folder, so that the next process continues,
and to the log, so that the test can see who did what.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from vitune.bench import (
    Case,
    Column,
    SelectThenTest,
    Trial,
    TrialRunner,
    aggregate,
    markdown,
    run_protocol,
    trials,
)

STEPS = 10


def main(root: Path, log: Path, table: Path, step_seconds: float, search: str = "grid") -> None:
    # torch is not needed for a grid; importing it would be most of the time.
    trials.machine = dict  # type: ignore[assignment]

    def note(line: str) -> None:
        with log.open("a") as file:
            file.write(line + "\n")

    def run(trial: Trial, folder: Path, data: Any) -> dict[str, Any]:
        note(f"start {trial.id} {os.getpid()}")
        done = folder / "steps"
        for step in range(int(done.read_text()) if done.exists() else 0, STEPS):
            time.sleep(step_seconds)
            note(f"step {trial.id} {step}")
            (folder / "new").write_text(str(step + 1))
            os.replace(folder / "new", done)
        note(f"end {trial.id} {os.getpid()}")
        score = 0.9 - abs(trial.settings["lr"] - 2) / 10 + trial.seed / 100
        if trial.stage == "select":
            return {"metrics": {"val": {"accuracy": score}, "test": None}}
        data.open_test("final")
        return {"metrics": {"val": None, "test": {"accuracy": score}}}

    class Source:
        class_names = ("a",)
        kind = "folder"
        has_test = True

        def split(self, name: str) -> list[str]:
            return [name]

        def open_test(self, reason: str) -> list[str]:
            return ["test"]

        def describe(self) -> dict[str, Any]:
            return {}

    runner = TrialRunner(root, run, lambda trial: Source(), poll_seconds=0.02)
    grid = tuple({"lr": lr} for lr in (1, 2, 3))
    cases = [
        Case(data="digits", model="tiny", methods=methods, grid=grid, search=made(methods, search))
        for methods in ("ssf", "lora")
    ]
    found = run_protocol(runner, SelectThenTest(name="small"), cases)
    columns = [Column("accuracy", "metrics.test.accuracy", scale=100)]
    outcomes = [outcome for result in found for outcome in result.final]
    table.write_text(markdown(aggregate(outcomes, columns), columns, root))


def made(methods: str, search: str) -> Any:
    if search == "grid":
        return None
    from vitune.bench.optuna_search import OptunaSearch

    return OptunaSearch(methods, 6)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]), float(sys.argv[4]), *sys.argv[5:])
