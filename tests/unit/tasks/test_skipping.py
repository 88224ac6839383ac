"""What a model that skips saves: counted as the closed form says, and None for a model that does not skip."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests.contract.cases import randomise
from tests.contract.families import backbone, images

import vitune
from vitune.methods.dyt import Dispatch, DyT, kept_tokens, macs
from vitune.tasks.classification import RunResult, evaluate, export_tuned
from vitune.tasks.profile import ProfileSettings, profile
from vitune.tasks.skipping import measure_skipping, skipping_of


def test_counts_agree_with_the_closed_form():
    tuned = randomise(vitune.apply(backbone("plain"), DyT(bottleneck=4)))
    batch = torch.cat([images("plain"), -images("plain")])
    found = measure_skipping(tuned, [batch[:3], batch[3:]], rounds=1)
    kept = kept_tokens(tuned, batch)
    cost = macs(tuned.anatomy, tuned.methods[0], kept)
    norms = macs_of_norms(tuned)
    assert found.images == 4
    assert found.rates == {role: tokens.float().mean().item() for role, tokens in kept.items()}
    assert found.kept_share == pytest.approx(sum(found.rates.values()) / len(found.rates))
    # The counter leaves out norms, and counts the gates, which the closed form leaves out.
    gates = len(kept) * 5 * 32
    active = sum(int(tokens.sum()) + len(tokens) for tokens in kept.values())  # patches and class tokens
    *_, last = kept.values()
    active -= int(last.sum())  # behind the last block only the class token is read
    assert found.plain_flops == 2 * (cost.plain - norms(5 * 4))
    assert found.masked_flops == 2 * (cost.every_token - norms(5 * 4) + gates)
    executed = 2 * (int((cost.images - cost.unread).sum()) + 4 * gates) - 2 * 5 * 32 * (
        4 * (5 * 4 + 5) + active
    )
    assert found.executed_flops == executed // 4
    assert min(found.images_per_second, found.plain_images_per_second, found.masked_images_per_second) > 0


def macs_of_norms(tuned: vitune.Tuned):
    """Multiply-accumulates of norms with so many rows in each half of the blocks, and those of the last norm."""
    return lambda rows: 5 * 32 * (2 * rows + 5)


def test_only_what_skips_is_measured(run):
    assert skipping_of(vitune.load(run.directory)) is None
    assert evaluate(run.directory, workers=0, device="cpu").skipping is None
    assert run.result["skipping"] is None


def test_an_evaluation_says_what_is_skipped(skipping_run: RunResult):
    found = evaluate(skipping_run.directory, split="val", workers=0, device="cpu").skipping
    assert found is not None
    assert found.images == 12
    assert found.rates == skipping_run.result["skipping"]["rates"]
    assert found.plain_flops < found.masked_flops
    assert found.executed_flops < found.masked_flops


def test_an_export_says_whether_it_skips(tmp_path: Path):
    tuned = randomise(vitune.apply(backbone("plain"), [DyT(bottleneck=4), vitune.BitFit()]))
    program = export_tuned(tuned, tmp_path / "program.pt2", format="torch-export")
    assert program.skipping == "kept"
    assert json.loads(program.description.read_text())["skipping"] == "kept"


@pytest.mark.slow
def test_an_onnx_file_is_said_to_be_dense(tmp_path: Path):
    for module in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(module)
    dense = randomise(vitune.apply(backbone("plain"), DyT(bottleneck=4)))
    assert export_tuned(dense, tmp_path / "file.onnx").skipping == "dense, masked"
    assert not any(gate.dense for gate in dense.model.modules() if isinstance(gate, Dispatch))


SMALL = {"model": "vit_tiny_patch16_224", "image_size": 32, "batch_size": 2, "classes": 3}


@pytest.mark.slow
def test_a_profile_counts_what_is_skipped():
    full, dyt = profile(ProfileSettings(**SMALL, methods=("dyt(bottleneck=4)",))).rows
    assert full.masked_flops is None
    assert dyt.masked_flops is not None
    assert dyt.forward_flops < full.forward_flops < dyt.masked_flops
    assert dyt.skipping is None


@pytest.mark.slow
def test_a_profile_measures_what_is_skipped():
    full, dyt = profile(ProfileSettings(**SMALL, methods=("dyt(bottleneck=4)",), rounds=1)).rows
    assert full.skipping is None
    assert dyt.skipping is not None
    assert dyt.masked_flops == dyt.skipping.masked_flops
