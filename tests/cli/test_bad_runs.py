"""Every way in which a run directory can be wrong has its own sentence; nothing is written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import QUICK, FinishedRun, Refused


@pytest.fixture
def copy(finished: FinishedRun, tmp_path: Path) -> Path:
    """A run that a test may damage."""
    return Path(shutil.copytree(finished.directory, tmp_path / "copy"))


def test_output_folder_exists(refused: Refused, images: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("mine")
    sentence = refused("train", images, "--method", "ssf", *QUICK, "--out", tmp_path / "taken")
    assert f"The output folder '{tmp_path / 'taken'}' is not empty; choose another with --out" in sentence
    assert (tmp_path / "taken" / "file").read_text() == "mine"
    sentence = refused("train", images, "--method", "ssf", *QUICK, "--out", tmp_path / "taken" / "file")
    assert "is a file; choose another folder with --out" in sentence


def test_output_folder_is_a_run(refused: Refused, images: Path, finished: FinishedRun) -> None:
    sentence = refused("train", images, "--method", "ssf", *QUICK, "--out", finished.directory)
    assert f"vitune train --resume {finished.directory}" in sentence


def test_demo_folder_exists(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("mine")
    assert "is not empty; choose another with --out" in refused("demo", "--out", tmp_path / "taken")


@pytest.mark.parametrize(
    "words",
    [("train", "--resume", "nowhere"), ("pretrain", "--resume", "nowhere"), ("evaluate", "nowhere", "data")],
)
def test_no_such_run(refused: Refused, words: tuple[str, ...]) -> None:
    assert "nowhere" in refused(*words)


@pytest.mark.parametrize("words", [("--lr", "1"), ("--seed", "3"), ("--set", "mixup=1"), ("--method", "ssf")])
def test_resume_takes_nothing_else(refused: Refused, finished: FinishedRun, words: tuple[str, ...]) -> None:
    sentence = refused("train", "--resume", finished.directory, *words)
    assert sentence == (
        f"--resume goes on with a run as it was started, so {words[0]} cannot be given with it; leave it out."
    )


def test_resume_takes_no_data(refused: Refused, finished: FinishedRun, images: Path) -> None:
    assert "so DATA cannot be given with it" in refused("train", images, "--resume", finished.directory)


def test_config_takes_no_settings(refused: Refused, finished: FinishedRun) -> None:
    sentence = refused("train", "--config", finished.directory / "config.json", "--lr", "1")
    assert sentence == "--config repeats a run as it was, so --lr cannot be given with it; leave it out."


def test_run_of_another_version(refused: Refused, copy: Path, images: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "format": 99}))
    assert "has format 99 and this version of vitune reads format 1" in refused("train", "--resume", copy)
    (copy / "settings.json").write_text(json.dumps({**config, "format": 99}))
    assert "is not the config.json of a run of this version" in refused(
        "train", "--config", copy / "settings.json"
    )
    adapter = json.loads((copy / "adapter_config.json").read_text())
    (copy / "adapter_config.json").write_text(json.dumps({**adapter, "format": 99}))
    assert "has format 99 and this vitune reads format 1" in refused("predict", copy, images / "test")


def test_configurations(refused: Refused, copy: Path) -> None:
    assert "there is no configuration 'nowhere.json'" in refused("train", "--config", "nowhere.json")
    (copy / "config.json").write_text("{")
    assert f"{copy / 'config.json'} cannot be read" in refused("train", "--config", copy)


def test_damaged_adapter(refused: Refused, copy: Path, images: Path) -> None:
    tensors = copy / "adapter_model.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-10])
    verbs = (
        ("evaluate", copy, images),
        ("predict", copy, images / "test"),
        ("merge", copy, "-o", "m.safetensors"),
    )
    for words in verbs:
        assert "truncated, changed, or from another run" in refused(*words)
    tensors.unlink()
    assert "the file 'adapter_model.safetensors' is missing" in refused("evaluate", copy, images)


def test_outputs_of_merge(refused: Refused, finished: FinishedRun, tmp_path: Path) -> None:
    (tmp_path / "taken.safetensors").write_bytes(b"mine")
    assert "exists already" in refused("merge", finished.directory, "-o", tmp_path / "taken.safetensors")
    assert "is no .safetensors file" in refused("merge", finished.directory, "-o", tmp_path / "model.pth")
    sentence = refused("merge", finished.directory, "-o", tmp_path / "nowhere" / "model.safetensors")
    assert "does not exist" in sentence
    assert (tmp_path / "taken.safetensors").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--top-k", "0"), "top_k is 0; it must be at least 1."),
        (("--batch-size", "0"), "batch_size is 0; it must be at least 1."),
    ],
)
def test_settings_of_predict(
    refused: Refused, finished: FinishedRun, images: Path, words: tuple[str, ...], sentence: str
) -> None:
    assert refused("predict", finished.directory, images / "test", *words) == sentence


def test_split_of_evaluate(refused: Refused, finished: FinishedRun, images: Path) -> None:
    sentence = refused("evaluate", finished.directory, images, "--split", "tset")
    assert "there is no split 'tset'; use 'train', 'val' or 'test'." in sentence
