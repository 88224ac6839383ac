from __future__ import annotations

from pathlib import Path

import pytest
import torch

import vitune
from vitune.backbones import rebuild
from vitune.errors import RunError
from vitune.tasks.classification import RunResult, merge


def test_a_plain_model_gives_the_same(run: RunResult, tmp_path: Path) -> None:
    merged = merge(run.directory, tmp_path / "plain.safetensors")
    assert merged.bytes == (tmp_path / "plain.safetensors").stat().st_size
    assert merged.class_names == ("blue", "green", "red")
    plain = rebuild(merged.source, 3, weights=merged.path).eval()
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(plain(images), vitune.load(run.directory)(images), atol=1e-5)


def test_the_output_must_be_new_and_a_safetensors_file(run: RunResult, tmp_path: Path) -> None:
    (tmp_path / "there.safetensors").write_text("mine")
    with pytest.raises(RunError, match="exists already; choose another name, or delete it"):
        merge(run.directory, tmp_path / "there.safetensors")
    assert (tmp_path / "there.safetensors").read_text() == "mine"
    with pytest.raises(RunError, match=r"is no \.safetensors file; give it that ending"):
        merge(run.directory, tmp_path / "model.pth")
