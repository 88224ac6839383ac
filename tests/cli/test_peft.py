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


def test_configs_are_profiled_beside_ours(run: Run) -> None:
    ours = "lora(roles=attn.q+attn.k+attn.v,rank=8,share_down=true)"
    theirs = ["peft", "peft(init_lora_weights=pissa)"]
    looking = [f"peft(init_lora_weights={start})" for start in ("eva", "corda", "lora_ga")]
    theirs += [f"peft(type={kind})" for kind in ("ADALORA", "FROD", "WAVEFT")] + looking
    methods = [word for text in (ours, *theirs) for word in ("--method", text)]
    outcome = run("profile", *methods, "--batch-size", 2, "--out", "costs.json")
    assert outcome.code == 0, outcome.err
    rows = {row["method"]: row for row in json.loads(Path("costs.json").read_text())["rows"]}
    assert set(rows) == {"full", ours, *theirs}
    trained = {text: row["trained_parameters"] for text, row in rows.items()}
    assert trained["peft"] == trained[ours] == trained["peft(init_lora_weights=pissa)"]
    files = {text: row["adapter_bytes"] for text, row in rows.items()}
    head = 4 * (128 + 1) * 100
    assert files["peft"] == files[ours]
    # What PiSSA takes off the weights is kept beside A and B, as large as they.
    assert files["peft(init_lora_weights=pissa)"] - head == 2 * (files["peft"] - head)
    for text in theirs:
        assert rows[text]["step_flops"] > 0
        assert 0 < rows[text]["saved_activation_bytes"] < rows["full"]["saved_activation_bytes"]
        assert text in outcome.out.replace("\n", "")
    # There are no data to look at: plain starts of the same shapes, and the command says so.
    assert {trained[text] for text in looking} == {trained["peft"]}
    assert files[looking[0]] == files["peft"]
    assert files[looking[1]] == files[looking[2]] == files["peft(init_lora_weights=pissa)"]
    for text in looking:
        assert f"{text}: counted as it starts without data" in outcome.err
    assert "pissa): counted" not in outcome.err


def test_configs_are_compared_with_our_methods(run: Run, images: Path) -> None:
    texts = ("linear", "peft(r=2,target_modules=attn.qkv)", "peft(type=ADALORA,init_r=2,target_r=1)")
    texts += ("peft(r=2,init_lora_weights=eva)", "peft(r=2,init_lora_weights=lora_ga)")
    methods = [word for text in texts for word in ("--method", text)]
    training = ("--epochs", 1, "--batch-size", 4, "--workers", 0, "--device", "cpu", "--set", "augment=none")
    settings = ("--seeds", 1, "--search", "none", "--set", "warmup_epochs=0")
    outcome = run("compare", images, *methods, *training, *settings)
    assert outcome.code == 0, outcome.err
    assert "failed" not in outcome.err + outcome.out
    out = Path("runs/compare-small")
    found = json.loads((out / "comparison.json").read_text())
    rows = {row["method"]: row for row in found["methods"]}
    assert set(rows) == set(texts)
    trained = {text: rows[text]["costs"]["trained_parameters"] for text in texts}
    assert (
        trained["linear"] < trained["peft(r=2,target_modules=attn.qkv)"] < trained[texts[2]]
    )  # which trains E too
    page = (out / "report.html").read_text()
    for text in texts:
        assert [one["seed"] for one in rows[text]["seeds"]] == [0]
        assert 0 <= rows[text]["accuracy"]["mean"] <= 100
        assert text in page
        assert text in outcome.out


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
