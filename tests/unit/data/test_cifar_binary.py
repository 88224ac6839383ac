from __future__ import annotations

import pickle

import numpy as np
import pytest

from vitune.data import open_source
from vitune.data.cifar_binary import missing
from vitune.errors import DataError


def planes(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3, 32, 32), np.uint8)


def rows(labels: list[list[int]], pixels: np.ndarray) -> bytes:
    return np.concatenate([np.array(labels, np.uint8), pixels.reshape(len(labels), -1)], axis=1).tobytes()


@pytest.fixture
def cifar100(tmp_path):
    """Coarse label, fine label, pixels; classes a0 to a99."""
    labels = [[0, 7], [1, 99], [0, 7], [1, 99], [0, 7]]
    (tmp_path / "train.bin").write_bytes(rows(labels, planes(5, 0)))
    (tmp_path / "test.bin").write_bytes(rows([[1, 99], [0, 7]], planes(2, 1)))
    (tmp_path / "fine_label_names.txt").write_text("\n".join(f"a{i}" for i in range(100)) + "\n")
    return tmp_path


def test_fine_labels_and_pixels(cifar100):
    source = open_source(cifar100, val_fraction=0)
    train, test = source.split("train"), source.open_test("evaluate")
    assert source.kind == "cifar-binary"
    assert source.class_names[:2] == ("a0", "a1")
    assert train.labels == [7, 99, 7, 99, 7]
    assert test.labels == [99, 7]
    np.testing.assert_array_equal(np.asarray(train.image(3)), planes(5, 0)[3].transpose(1, 2, 0))
    np.testing.assert_array_equal(np.asarray(test.image(1)), planes(2, 1)[1].transpose(1, 2, 0))
    assert (train.name(3), train.size(3)) == ("train.bin#3", (32, 32))
    again = pickle.loads(pickle.dumps(train))  # as a worker gets it
    assert again.image(4).tobytes() == train.image(4).tobytes()


def test_validation_is_held_out(cifar100):
    assert open_source(cifar100, val_fraction=0.4).describe()["sizes"] == {"train": 3, "test": 2, "val": 2}


def test_cifar10_in_several_files(tmp_path):
    for number in range(1, 6):
        (tmp_path / f"data_batch_{number}.bin").write_bytes(rows([[number], [9]], planes(2, number)))
    (tmp_path / "test_batch.bin").write_bytes(rows([[0]], planes(1, 9)))
    (tmp_path / "batches.meta.txt").write_text("\n".join(f"b{i}" for i in range(10)) + "\n\n")
    source = open_source(tmp_path, val_fraction=0)
    train = source.split("train")
    assert train.labels == [1, 9, 2, 9, 3, 9, 4, 9, 5, 9]
    assert train.name(6) == "data_batch_4.bin#0"
    np.testing.assert_array_equal(np.asarray(train.image(6)), planes(2, 4)[0].transpose(1, 2, 0))
    assert source.open_test("evaluate").class_names[0] == "b0"
    (tmp_path / "data_batch_2.bin").unlink()
    with pytest.raises(DataError, match=r"data_batch_2\.bin' is missing; restore it from the archive"):
        open_source(tmp_path)


def test_mistakes(cifar100):
    whole = (cifar100 / "train.bin").read_bytes()
    (cifar100 / "train.bin").write_bytes(whole[:-1])
    with pytest.raises(DataError, match="has 15,369 bytes, which is no whole number of rows of 3,074"):
        open_source(cifar100)
    (cifar100 / "train.bin").write_bytes(rows([[0, 100]], planes(1, 0)))
    with pytest.raises(
        DataError, match=r"row 0: label 100 is out of range; the labels of this data set are 0\.\.99"
    ):
        open_source(cifar100)
    (cifar100 / "train.bin").write_bytes(whole)
    train = open_source(cifar100, val_fraction=0).split("train")
    (cifar100 / "train.bin").write_bytes(whole[:3074])
    with pytest.raises(
        DataError, match=r"image 'train\.bin#1' cannot be read: 'train\.bin' has become shorter"
    ):
        train.image(1)
    (cifar100 / "fine_label_names.txt").write_text("a b a\n")
    with pytest.raises(DataError, match="names 2 classes, expected 100"):
        open_source(cifar100)
    (cifar100 / "fine_label_names.txt").unlink()
    with pytest.raises(DataError, match=r"fine_label_names\.txt' is missing: it names the classes"):
        open_source(cifar100)


def test_what_is_missing(cifar100, tmp_path):
    sizes = [sentence.rpartition("have ")[2] for sentence in missing(cifar100)]
    assert sizes == ["5 images, expected 50000.", "2 images, expected 10000."]
    (cifar100 / "test.bin").unlink()
    assert missing(cifar100) == [
        f"'{cifar100 / 'test.bin'}' is missing: a file of the binary version of CIFAR-100."
    ]
    assert "there is no folder" in missing(tmp_path / "none", classes=10)[0]
