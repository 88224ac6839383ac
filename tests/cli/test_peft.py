"""PEFT from the command line: its configs as methods, its LoRA files, its types."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import vitune
from tests.cli.conftest import QUICK, Run
from vitune.backbones import BUILT_IN

pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore")  # of peft, about its own configs


def test_a_config_trains_and_merges(run: Run, images: Path) -> None:
    text = "peft(type=LOHA,r=2,target_modules=attn.qkv)"
    outcome = run("train", images, "--method", text, *QUICK, "--out", "loha")
    assert outcome.code == 0, outcome.err
    assert "vitune merge loha" in outcome.out.replace("\n", " ")
    saved = json.loads(Path("loha/adapter_config.json").read_text())
    assert saved["methods"][0]["settings"]["type"] == "LOHA"
    assert saved["methods"][0]["settings"]["alpha"] == 8  # defaults too
    assert run("evaluate", "loha", images).code == 0
    outcome = run("merge", "loha", "-o", "plain.safetensors")
    assert outcome.code == 0, outcome.err


def test_a_config_is_profiled_beside_ours(run: Run) -> None:
    outcome = run("profile", "--methods", "lora(roles=attn.qkv),peft", "--batch-size", 2)
    assert outcome.code == 0, outcome.err
    lines = [line for line in outcome.out.splitlines() if "lora" in line or "peft" in line]
    assert len(lines) >= 2


def test_lora_goes_to_peft_and_back(run: Run, images: Path) -> None:
    assert run("train", images, "--method", "lora(rank=2)", *QUICK, "--out", "ours").code == 0
    outcome = run("convert", "ours", "theirs", "--peft")
    assert (outcome.code, outcome.out.strip()) == (0, "wrote theirs"), outcome.err
    assert json.loads(Path("theirs/adapter_config.json").read_text())["peft_type"] == "LORA"
    outcome = run("convert", "theirs", "again", "--peft")
    assert outcome.code == 2
    assert outcome.err.strip() == (
        "vitune: the PEFT adapter in 'theirs' does not say its backbone and classes; give --model and --classes."
    )
    outcome = run("convert", "theirs", "again", "--peft", "--model", BUILT_IN, "--classes", 3)
    assert outcome.code == 0, outcome.err
    one, other = vitune.load("ours"), vitune.load("again")
    batch = torch.randn(2, *one.anatomy.input_size)
    with torch.no_grad():
        assert torch.allclose(one(batch), other(batch), atol=1e-5)
    outcome = run("convert", "ours", "theirs", "--peft")
    assert outcome.code == 2
    assert "'theirs' exists already; choose another name, or delete it." in outcome.err


def test_what_cannot_be_done_is_one_sentence(run: Run, images: Path) -> None:
    outcome = run("train", images, "--method", "peft(type=PREFIX_TUNING)", "--out", "no")
    assert outcome.code == 2
    assert outcome.err.strip().startswith(
        "vitune: peft: type PREFIX_TUNING cannot be used on an image backbone: it"
    )
    assert not Path("no").exists()


def test_types_are_shown(run: Run) -> None:
    outcome = run("show", "peft")
    assert outcome.code == 0, outcome.err
    assert all(name in outcome.out for name in ("LORA", "IA3", "BOFT", "target_modules"))
    assert "PREFIX_TUNING" not in outcome.out
