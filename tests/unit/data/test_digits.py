from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitune.data import open_source
from vitune.data.digits import write_digits
from vitune.errors import ConfigError, RunError


def test_digits_are_a_data_set_of_three_splits(tmp_path: Path) -> None:
    write_digits(tmp_path / "digits", seed=0)
    source = open_source(tmp_path / "digits")
    assert source.class_names == tuple("0123456789")
    train, val, test = source.split("train"), source.split("val"), source.open_test("evaluate")
    assert train is not None
    assert val is not None
    assert [len(split) for split in (train, val, test)] == [400, 200, 1197]
    assert np.bincount(train.labels).min() >= 38  # stratified
    assert [path.name for path in tmp_path.iterdir()] == ["digits"]
    names = [path.name for path in (tmp_path / "digits").rglob("*.png")]
    assert len(set(names)) == 1797  # no image is in two splits


def test_pixels_are_those_of_scikit_learn(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    write_digits(tmp_path / "digits", seed=0)
    digits = load_digits()
    for path in sorted((tmp_path / "digits" / "train").rglob("*.png"))[::50]:
        index = int(path.stem)
        assert path.parent.name == str(digits.target[index])
        np.testing.assert_array_equal(np.asarray(Image.open(path)), np.round(digits.images[index] * 255 / 16))


def test_the_seed_decides_the_split(tmp_path: Path) -> None:
    names = {}
    for key, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_digits(tmp_path / key, seed)
        names[key] = sorted(path.name for path in (tmp_path / key / "train").rglob("*.png"))
    assert names["a"] == names["b"] != names["c"]


def test_without_scikit_learn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str, *arguments: object) -> None:
        raise ModuleNotFoundError("no", name="sklearn")

    monkeypatch.setattr("vitune._extras.importlib.import_module", missing)
    with pytest.raises(
        ConfigError, match=r"the digits needs the package 'sklearn'.*pip install 'vitune\[demo\]'"
    ):
        write_digits(tmp_path / "digits", seed=0)
    assert list(tmp_path.iterdir()) == []


def test_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"the digits cannot be written to .*; choose another --out\."):
        write_digits(tmp_path / "file" / "digits", seed=0)
    (tmp_path / "there").mkdir()
    with pytest.raises(RunError, match=r"there', which is there already; choose another --out\."):
        write_digits(tmp_path / "there")


def test_other_sizes_and_few_shots(tmp_path: Path) -> None:
    write_digits(tmp_path / "digits", train=300, validation=100)
    source = open_source(tmp_path / "digits", shots=4)
    assert source.describe()["sizes"] == {"train": 40, "val": 100, "test": 1397}
    with pytest.raises(
        ConfigError, match="the digits would have 7 test images; each split needs 10 or more of 1797"
    ):
        write_digits(tmp_path / "more", train=1700, validation=90)
    with pytest.raises(ConfigError, match="would have 5 train images"):
        write_digits(tmp_path / "more", train=5)
