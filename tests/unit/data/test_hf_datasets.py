from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vitune.data import open_samples, open_source
from vitune.errors import ConfigError, DataError

datasets: Any = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def _quiet():
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def made(labels: list[Any], *, names: list[str] | None = None, start: int = 0, **columns: Any) -> Any:
    images = [Image.new("RGB", (6, 4), (start + i, 0, 0)) for i in range(len(labels))]
    label = datasets.ClassLabel(names=names) if names else datasets.Value("int64")
    if any(isinstance(value, str) for value in labels):
        label = datasets.Value("string")
    features = datasets.Features({"image": datasets.Image(), "label": label})
    return datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)


def red(image: Image.Image) -> int:
    return int(np.asarray(image)[0, 0, 0])


def test_an_object_is_split_by_rule_and_left_as_it_was():
    data = made(["b", "a"] * 5).with_transform(lambda rows: 1 / 0)
    source = open_source(data)
    assert source.kind == "hf-datasets"
    assert source.class_names == ("a", "b")
    assert source.describe()["sizes"] == {"train": 8, "val": 2}
    assert source.describe()["path"] == "Dataset"
    assert open_samples(data, ("b", "a")).labels == [0, 1] * 5


@pytest.mark.parametrize("saved", [False, True])
def test_a_dict_of_splits(tmp_path: Path, saved: bool):
    names = ["wasp", "bee"]
    data: Any = datasets.DatasetDict(
        {
            "train": made([0, 1, 0, 1], names=names).select([3, 0, 1]),
            "validation": made([1], names=names, start=20),
            "test": made([-1], start=30),
        }
    )
    if saved:
        data.save_to_disk(str(tmp_path))
        data = tmp_path
    source = open_source(data)
    assert source.class_names == ("wasp", "bee")
    train = source.split("train")
    assert train is not None
    assert train.labels == [1, 0, 1]
    assert [red(train.image(i)) for i in (2, 0)] == [1, 3]
    assert (train.size(1), train.name(1)) == ((6, 4), "row 2")
    assert red(pickle.loads(pickle.dumps(train)).image(0)) == 3
    assert not source.has_test
    assert source.describe()["split"]["unlabelled"] == ["test"]


def test_one_saved_dataset_and_its_columns(tmp_path: Path):
    made([0, 1] * 5).rename_columns({"image": "photo", "label": "kind"}).save_to_disk(str(tmp_path))
    with pytest.raises(DataError, match=r"has no column of images: tried image, .*name it with image_column"):
        open_source(tmp_path)
    source = open_source(tmp_path, image_column="photo", label_column="kind")
    assert source.describe()["sizes"] == {"train": 8, "val": 2}
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(DataError, match=r"cannot be read: .*; save it again"):
        open_source(tmp_path)


def test_images_in_files_beside_the_data(tmp_path: Path, save):
    files = [str(save(tmp_path / f"{i}.png")) for i in range(2)]
    data = datasets.Dataset.from_dict({"image": files, "label": [0, 1]})
    with pytest.raises(DataError, match=r"column 'image' holds Value.* not images; cast_column\('image'"):
        open_samples(data, ("0", "1"))
    samples = open_samples(data.cast_column("image", datasets.Image()), ("0", "1"))
    assert samples.image(1).size == (12, 10)
    Path(files[1]).unlink()
    with pytest.raises(DataError, match=r"row 2: '.*1\.png' cannot be read: No such file"):
        samples.image(1)


def test_what_cannot_be_read():
    one = made([0, 1])
    with pytest.raises(
        DataError, match="the given IterableDataset is read as a stream, but training needs images by"
    ):
        open_source(one.to_iterable_dataset())
    with pytest.raises(
        DataError, match=r"the given list is no data set; give a path, or give a datasets\.Dataset"
    ):
        open_source([one])
    with pytest.raises(
        DataError, match="the key 'small' of the DatasetDict names no split; its keys are train, small"
    ):
        open_source(datasets.DatasetDict({"train": one, "small": one}))
    with pytest.raises(DataError, match="the key 'valid' of the DatasetDict is a second val split"):
        open_source(datasets.DatasetDict({"val": one, "valid": one}))
    with pytest.raises(
        DataError, match="the given data set, train, row 2: label None is neither an integer nor text"
    ):
        open_source(datasets.DatasetDict({"train": made([0, None]), "test": one}))
    with pytest.raises(ConfigError, match="a data set object has no VTAB-1k lists; use 'train'"):
        open_source(one, train_split="train800")
    empty = datasets.Dataset.from_dict(
        {"image": [None], "label": [0]}, features=datasets.Features(one.features)
    )
    with pytest.raises(DataError, match="image 'row 1' of the given data set is empty; remove the row"):
        open_samples(empty, ("0", "1")).image(0)


def test_without_the_package_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made([0, 1]).save_to_disk(str(tmp_path))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"needs the package 'datasets'.*pip install 'vitune\[datasets\]'"):
        open_source(tmp_path)
