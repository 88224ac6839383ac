"""Training from the layouts of other tools: WebDataset shards and a data set saved by Hugging Face datasets."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import datasets
import pytest

from tests.cli.conftest import QUICK, Run
from tests.cli.small_images import CLASSES


def as_shards(images: Path, folder: Path) -> Path:
    """One shard for each split; the class of KEY.png is in KEY.cls."""
    folder.mkdir()
    for split in ("train", "val", "test"):
        with tarfile.open(folder / f"{split}-000000.tar", "w") as shard:
            for number, path in enumerate(sorted((images / split).rglob("*.png"))):
                label = folder / "label"
                label.write_text(path.parent.name)
                shard.add(path, f"{number:04}.png")
                shard.add(label, f"{number:04}.cls")
                label.unlink()
    return folder


def as_datasets(images: Path, folder: Path) -> Path:
    """What `save_to_disk` writes of a DatasetDict with an image and a class column."""
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))}
    )
    splits = {}
    for split, name in (("train", "train"), ("val", "validation"), ("test", "test")):
        paths = sorted((images / split).rglob("*.png"))
        columns = {"image": [str(path) for path in paths], "label": [path.parent.name for path in paths]}
        splits[name] = datasets.Dataset.from_dict(columns, features=features)
    datasets.DatasetDict(splits).save_to_disk(folder)
    return folder


@pytest.mark.parametrize("write", [as_shards, as_datasets])
def test_other_layouts_train_as_folders_do(write, run: Run, images: Path, tmp_path: Path) -> None:
    data = write(images, tmp_path / "data")
    outcome = run("train", data, "--method", "bitfit", *QUICK, "--out", "run")
    assert outcome.code == 0, outcome.err
    split = json.loads(Path("run/split.json").read_text())
    assert list(split["class_names"]) == list(CLASSES)
    result = json.loads(Path("run/result.json").read_text())
    assert (result["data"]["train"], result["metrics"]["val"]["n"]) == (18, 9)
    assert run("evaluate", "run", data, "--split", "test", "--device", "cpu").code == 0
