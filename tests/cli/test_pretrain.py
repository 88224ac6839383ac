from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import typer

from tests.cli.conftest import Refused, Run
from vitune.cli.application import app
from vitune.training.pretrain_config import PretrainConfig

TINY = ("--model-args", "embed_dim=16", "--model-args", "depth=1", "--model-args", "num_heads=2")
WORDS = (*TINY, "--image-size", 16, "--model-args", "patch_size=8", "--batch-size", 6, "--workers", 0)


def test_every_setting_has_an_option_of_its_name() -> None:
    verb = typer.main.get_command(app).commands["pretrain"]  # pyright: ignore[reportAttributeAccessIssue]
    names = {parameter.name for parameter in verb.params} - {"resume"}
    assert names == {field.name for field in dataclasses.fields(PretrainConfig)}


def test_pretraining(run: Run, images: Path) -> None:
    outcome = run(
        "pretrain", images, "--out", "run", *WORDS, "--epochs", 2, "--warmup-epochs", 0, "--no-flip"
    )
    assert outcome.code == 0, outcome.err
    assert "18 training and 9 validation images" in outcome.out
    assert "epoch 2 " in outcome.out
    assert outcome.out.endswith("weights and card are in run\n")
    assert {"weights.safetensors", "card.json", "config.json"} <= {
        path.name for path in Path("run").iterdir()
    }
    again = run("pretrain", images, "--out", "run", *WORDS)
    assert again.code == 2
    assert "The run directory run is there already" in again.err
    assert run("pretrain", "--resume", "run").code == 0


def test_batch_larger_than_the_data(refused: Refused, images: Path) -> None:
    sentence = refused("pretrain", images, "--out", "run", *WORDS, "--batch-size", 64)
    assert "64" in sentence
    assert "18" in sentence


def test_interrupt(run: Run, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("vitune.training.pretrain.pretrain", interrupted)
    outcome = run("pretrain", images, "--out", "run")
    assert (outcome.code, outcome.err) == (130, "vitune: stopped before the first checkpoint.\n")
    Path("run/checkpoint").mkdir(parents=True)
    outcome = run("pretrain", images, "--out", "run")
    assert outcome.err == "vitune: stopped, and saved; go on with: vitune pretrain --resume run\n"
