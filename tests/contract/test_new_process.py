"""Adapters and pickles, read in one fresh process."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.contract.cases import ALL, randomise, tune
from tests.contract.families import FAMILIES, backbone, images

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def read_back(tmp_path_factory) -> dict[str, dict[str, object]]:
    """Save every case, read all of them in one new process; what it found, by case."""
    folder = tmp_path_factory.mktemp("cases")
    for family in FAMILIES:
        save_file(backbone(family).state_dict(), folder / f"{family}.safetensors")
    for i, (text, family) in enumerate(ALL):
        tuned = randomise(tune(text, family))
        tuned.model.eval()
        tuned.save(folder / str(i), class_names=("a", "b", "c") if tuned.anatomy.head else None)
        with torch.no_grad():
            scores = tuned(images(family)).contiguous()
        save_file({"scores": scores}, folder / f"{i}.safetensors")
        (folder / f"{i}.pickle").write_bytes(pickle.dumps(tuned))
    (folder / "cases.json").write_text(json.dumps(ALL))
    command = [sys.executable, "-m", "tests.contract.read_back", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return {
        f"{text} {family}": found for (text, family), found in zip(ALL, json.loads(done.stdout), strict=True)
    }


@pytest.mark.parametrize(("text", "family"), ALL)
def test_loaded_adapter_computes_the_same(text, family, read_back):
    found = read_back[f"{text} {family}"]
    assert found["adapter"] == "equal"
    assert found["class_names"] == (["a", "b", "c"] if "head" in FAMILIES[family].features else None)
    assert found["rebuilt"] == ("rebuilt" in FAMILIES[family].features)


@pytest.mark.parametrize(("text", "family"), ALL)
def test_pickled_model_computes_the_same(text, family, read_back):
    assert read_back[f"{text} {family}"]["pickle"] == "equal"
