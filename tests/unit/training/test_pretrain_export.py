from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer

from vitune.backbones import read_card
from vitune.errors import ConfigError, RunError
from vitune.training import pretrain_export
from vitune.training.pretrain_export import export_backbone

SHAPE: dict[str, Any] = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}


def make_run(
    folder: Path, arch: str = "vit_tiny_patch16_224", device_type: str = "cpu", **changes: Any
) -> Path:
    """What a run of one epoch leaves, as far as the export reads it."""
    model_args = {**SHAPE, "drop_path_rate": 0.1, **changes}
    torch.manual_seed(0)
    model = timm.create_model(arch, num_classes=2, **model_args)
    folder.mkdir()
    save_file({n: t.half() for n, t in model.state_dict().items()}, folder / "weights.safetensors")
    settings = {"epochs": 4, "model_args": model_args}
    log = [{"epoch": 1, "train_loss": 0.7, "val_loss": 0.6, "val_accuracy": 0.625}]
    stage = {"command": "vitune pretrain data/tiny-imagenet --epochs 4", "settings": settings, "log": log}
    card = {
        "format": 1,
        "architecture": {"arch": arch, "model_args": model_args},
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "num_classes": 2,
        "class_names": ["cat", "dog"],
        "input": {
            "size": [3, 16, 16],
            "mean": [0.5] * 3,
            "std": [0.5] * 3,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
        },
        "data": {"name": "tiny-imagenet", "train": 72000, "val": 5000},
        "val_accuracy": 0.625,
        "val_loss": 0.6,
        "seed": 0,
        "sha256": hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest(),
        "versions": {"torch": "2"},
        "stages": [
            {**stage, "epochs_done": 1, "seconds": 90, "device": "a machine", "device_type": device_type}
        ],
    }
    (folder / "card.json").write_text(json.dumps(card))
    return folder


def test_the_files_make_the_same_model_with_timms_own_class(tmp_path: Path):
    run = make_run(tmp_path / "run")
    path = export_backbone(run, tmp_path / "package", "small")
    assert sorted(file.name for file in path.parent.iterdir()) == [
        "README.md",
        "small.json",
        "small.safetensors",
    ]
    card = read_card(path)
    assert card.architecture == SHAPE
    model = VisionTransformer(num_classes=card.num_classes, **card.architecture)
    model.load_state_dict(load_file(card.weights))
    assert card.weights.read_bytes() == (run / "weights.safetensors").read_bytes()
    assert hashlib.sha256(card.weights.read_bytes()).hexdigest() == card.sha256


@pytest.mark.parametrize(("device_type", "interim"), [("cpu", True), ("cuda", False)])
def test_the_page_says_what_the_card_says(tmp_path: Path, device_type: str, interim: bool):
    path = export_backbone(make_run(tmp_path / "run", device_type=device_type), tmp_path / "package", "small")
    assert json.loads(path.read_text())["interim"] is interim
    page = (path.parent / "README.md").read_text()
    assert page.startswith("# small\n")
    assert ("**Interim weights.**" in page) is interim
    assert "| top-1 accuracy | 62.50 % on the 5,000 validation images" in page
    assert "Stage 1, 1 of 4 epochs in 2 minutes on a machine:" in page
    assert "vitune pretrain data/tiny-imagenet --epochs 4" in page
    assert "| 1 | 0.700 | 0.600 | 62.50 % |" in page
    assert "ImageNet terms of access apply" in page


def test_other_data_have_their_own_terms(tmp_path: Path):
    run = make_run(tmp_path / "run")
    card = json.loads((run / "card.json").read_text())
    (run / "card.json").write_text(json.dumps({**card, "data": {**card["data"], "name": "cats"}}))
    path = export_backbone(run, tmp_path / "package", "small")
    assert "`cats`: the terms of the data set apply." in (path.parent / "README.md").read_text()


def test_a_run_without_weights_yet(tmp_path: Path):
    with pytest.raises(RunError, match="has no weights and card yet; they are written after the first epoch"):
        export_backbone(tmp_path, tmp_path / "package")
    assert not (tmp_path / "package").exists()


def test_weights_that_are_not_those_of_the_card(tmp_path: Path):
    run = make_run(tmp_path / "run")
    (run / "weights.safetensors").write_bytes(b"newer")
    with pytest.raises(RunError, match="are not those of its card; if the run goes on, try again"):
        export_backbone(run, tmp_path / "package")


def test_weights_too_large_for_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pretrain_export, "_LARGEST_FILE_BYTES", 1000)
    with pytest.raises(ConfigError, match="at most 1000 go in"):
        export_backbone(make_run(tmp_path / "run"), tmp_path / "package")


def test_an_architecture_that_is_no_plain_vision_transformer(tmp_path: Path):
    run = make_run(tmp_path / "run", arch="deit_tiny_distilled_patch16_224")
    with pytest.raises(ConfigError, match="is a VisionTransformerDistilled; only a VisionTransformer"):
        export_backbone(run, tmp_path / "package")


def test_what_timms_name_adds_has_to_be_written_out(tmp_path: Path):
    # This name stands for a norm before the blocks, too.
    run = make_run(tmp_path / "run", arch="vit_base_patch16_clip_224")
    with pytest.raises(
        ConfigError, match=r"do not fit the architecture|is not the plain VisionTransformer with"
    ):
        export_backbone(run, tmp_path / "package")
