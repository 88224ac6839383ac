"""The examples run."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch

import vitune
from vitune.backbones import create

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(("method", "stages"), [("lora(rank=4)", 1), ("e2vpt(prompts=4)", 2)])
def test_a_loop_of_accelerate(method: str, stages: int) -> None:
    history = runpy.run_path(str(EXAMPLES / "accelerate_loop.py"))["main"](method)
    assert len(history) == 3 * stages
    assert history[2] < history[0]


TINY = ["--steps", "1", "--batch-size", "2", "--length", "16", "--width", "128", "--layers", "1"]


@pytest.mark.parametrize("what", ["pretrain", "finetune"])
def test_a_llama_keeps_less_with_velora_and_less_still_exactly(what: str) -> None:
    pytest.importorskip("transformers")
    kept = runpy.run_path(str(EXAMPLES / "velora_llama.py"))["main"]([what, *TINY])
    host = "full" if what == "pretrain" else "LoRA"
    assert kept[f"{host}, exact: leaner"] < kept[f"{host} + VeLoRA"] < kept[host]


def test_the_shortest_loop_of_accelerate_trains_an_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = EXAMPLES / "accelerate_20_lines.py"
    code = [line for line in path.read_text().splitlines() if line and not line.startswith('"""')]
    assert len(code) <= 20
    torch.manual_seed(0)
    found = runpy.run_path(str(path))
    start = vitune.apply(create("vitune_vit_nano_patch8_64", num_classes=3), vitune.LoRA(rank=4))
    again = vitune.load(tmp_path / "adapter")
    criterion = torch.nn.functional.cross_entropy
    with torch.no_grad():
        before, after = (criterion(model(found["images"]), found["labels"]) for model in (start, again))
    assert after < before
