from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import ENVIRONMENT, Run
from tests.cli.small_images import write_splits

EPOCHS = 6


def test_interrupted_run_says_how_to_go_on_and_does(run: Run, tmp_path: Path) -> None:
    data = write_splits(tmp_path / "data", train=10, val=2)
    words = ["train", data, "--method", "lora(rank=2)", "--epochs", EPOCHS, "--batch-size", 4, "--workers", 0]
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "vitune", *map(str, words), "--out", "run"],
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch 1/"):
            process.send_signal(signal.SIGINT)
            break
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert err == "vitune: stopped, and saved; go on with: vitune train --resume run\n"
    assert not (tmp_path / "run" / "result.json").exists()

    outcome = run("train", "--resume", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    assert f"epoch {EPOCHS}/{EPOCHS}" in outcome.out
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines if line["event"] == "epoch"] == list(range(1, EPOCHS + 1))


def test_interrupt_before_anything_is_written(
    run: Run, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("vitune.tasks.train.assemble", interrupted)
    outcome = run("train", images, "--method", "ssf")
    assert outcome.code == 130
    assert outcome.err == "vitune: stopped before anything was written.\n"
    assert list(Path.cwd().iterdir()) == []


def test_second_interrupt(run: Run, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("vitune.tasks.train.fit", interrupted)
    outcome = run("train", images, "--method", "ssf", "--batch-size", 4, "--workers", 0, "--out", "run")
    assert outcome.code == 130
    assert outcome.err == (
        "vitune: stopped at once; go on from the last checkpoint with: vitune train --resume run\n"
    )


def test_interrupt_of_a_verb_that_needs_no_resuming(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("vitune.tasks.classification.merge", interrupted)
    outcome = run("merge", "run", "-o", "merged.safetensors")
    assert (outcome.code, outcome.err) == (130, "vitune: stopped.\n")
