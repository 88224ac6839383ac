"""Running the command line, in this process or in one of its own, on images of a few pixels."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli.small_images import write_splits
from vitune.cli import main

REPOSITORY = Path(__file__).parents[2]
# No progress bars, no colours, no waiting for a network that is not there.
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(REPOSITORY / "src"),
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "COLUMNS": "200",
}
# In fp32, so that a run in a process of its own computes what one in this process does, on any machine.
QUICK = ("--epochs", "2", "--batch-size", "4", "--workers", "0", "--device", "cpu", "--precision", "fp32")


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


Run = Callable[..., Outcome]
Refused = Callable[..., str]


def in_new_process(*words: object, cwd: Path) -> Outcome:
    done = subprocess.run(
        [sys.executable, "-m", "vitune", *map(str, words)],
        cwd=cwd,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Runs the command line in this process, in an empty folder."""
    place = tmp_path / "here"
    place.mkdir()
    monkeypatch.chdir(place)
    monkeypatch.setenv("COLUMNS", "200")

    def run_words(*words: object) -> Outcome:
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run_words


@pytest.fixture
def refused(run: Run) -> Refused:
    """Runs a command that is a mistake, and gives the sentence: exit code 2, one line, nothing written."""

    def sentence(*words: object) -> str:
        outcome = run(*words)
        assert outcome.code == 2, outcome
        lines = outcome.err.splitlines()
        assert len(lines) == 1, outcome.err
        assert lines[0].startswith("vitune: ")
        assert "Traceback" not in outcome.out
        assert list(Path.cwd().iterdir()) == [], "something was written"
        return lines[0].removeprefix("vitune: ")

    return sentence


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes that a colour tells apart, as train, val and test folders."""
    return write_splits(tmp_path_factory.mktemp("data") / "small", train=6, val=3, test=3)


@dataclass(frozen=True)
class FinishedRun:
    directory: Path
    outcome: Outcome


@pytest.fixture(scope="session")
def finished(images: Path, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """A run trained by the real command in a process of its own."""
    place = tmp_path_factory.mktemp("finished")
    outcome = in_new_process("train", images, "--method", "ssf", *QUICK, cwd=place)
    assert outcome.code == 0, outcome.err
    return FinishedRun(place / "runs" / "small-ssf", outcome)
