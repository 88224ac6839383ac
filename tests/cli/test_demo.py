from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.cli.small_images import write_splits
from vitune.tasks import demo as task


@pytest.fixture
def few_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handful of images in place of 1,797; the runs themselves are real."""

    def write(folder: Path, seed: int) -> None:
        write_splits(folder, train=6, val=2, test=3)

    monkeypatch.setattr(task, "write_digits", write)


def test_demo_compares_four_real_runs_on_one_page_and_records_how(run: Run, few_digits: None) -> None:
    outcome = run("demo", "--epochs", 1, "--seed", 3, "--out", "demo")
    assert outcome.code == 0, outcome.err
    rows = {line.split()[0]: line for line in outcome.out.splitlines() if line.strip()}
    for method in task.METHODS:
        result = json.loads(Path("demo", method, "result.json").read_text())
        found = result["metrics"]["test"]
        interval = f"{100 * found['accuracy']:.1f} % ({100 * found['low']:.1f} to {100 * found['high']:.1f})"
        assert interval in rows[method]
        assert f"{result['costs']['trained_parameters']:,}" in rows[method]
        assert result["seed"] == 3
        assert result["command"].startswith(f"vitune train demo/digits --method {method} --epochs 1 ")
    page = Path("demo/report.html").read_text()
    assert "vitune demo: handwritten digits" in page
    for command in ("open demo/report.html", "vitune evaluate demo/ssf demo/digits", "vitune merge demo/ssf"):
        assert command in outcome.out
    assert "note: this machine" not in outcome.out  # the user chose the epochs

    words = shlex.split(json.loads(Path("demo/lora/result.json").read_text())["command"])[1:]
    assert run(*words, "--out", "again").code == 0
    tensors = "adapter_model.safetensors"
    assert Path("again", tensors).read_bytes() == Path("demo/lora", tensors).read_bytes()


def test_slow_machine_is_told_that_epochs_are_cut(
    run: Run, few_digits: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task, "seconds_per_training_image", lambda: 0.05)

    def stop(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(task, "run_demo", stop)
    outcome = run("demo", "--out", "demo")
    assert "note: this machine trains 20 images/s now: 1 instead of 6 epochs" in outcome.out
    assert outcome.code == 130
    assert outcome.err == "vitune: stopped; what was finished is in demo; begin again with: vitune demo\n"
