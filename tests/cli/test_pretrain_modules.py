from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import QUICK, Refused, Run


def test_two_phases(run: Run, images: Path) -> None:
    outcome = run("pretrain-modules", images, "--method", "lora(rank=2)", *QUICK, "--out", "first")
    assert outcome.code == 0, outcome.err
    assert "wrote first/modules.safetensors; accuracy on these data " in outcome.out
    command = "vitune train DATA --method 'lora(rank=2)' --init-modules first/modules.safetensors"
    assert outcome.out.splitlines()[-1] == f"  {command}"
    words = (
        "train",
        images,
        "--method",
        "lora(rank=2)",
        *QUICK,
        "--init-modules",
        "first/modules.safetensors",
    )
    assert run(*words, "--shots", 2, "--out", "second").code == 0
    assert json.loads(Path("second/split.json").read_text())["sizes"]["train"] == 6
    other = run(*words[:3], "lora(rank=3)", *words[4:], "--out", "third")
    assert other.code == 2
    assert "were trained with rank 2 and this run asks for 3" in other.err
    assert not Path("third").exists()
    again = run("pretrain-modules", "--resume", "first")
    assert "wrote first/modules.safetensors" in again.out


def test_nothing_is_given_with_resume(refused: Refused, images: Path) -> None:
    sentence = refused("pretrain-modules", images, "--resume", "run")
    assert sentence == (
        "--resume goes on with a run as it was started, so DATA cannot be given with it; leave it out."
    )
    assert "so --batch-size cannot be given" in refused(
        "pretrain-modules", "--resume", "run", "--batch-size", 2
    )


def test_only_methods_with_modules(refused: Refused, images: Path) -> None:
    sentence = refused("pretrain-modules", images, "--method", "bitfit", *QUICK)
    assert sentence.startswith("the modules of 'bitfit' cannot be pre-trained")


def test_a_missing_file_of_modules(refused: Refused, images: Path) -> None:
    sentence = refused("train", images, "--method", "lora", *QUICK, "--init-modules", "none.safetensors")
    assert sentence.startswith("there is no file of modules 'none.safetensors'")
