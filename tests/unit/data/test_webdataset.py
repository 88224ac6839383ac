from __future__ import annotations

import io
import json
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitune.data import open_samples, open_source
from vitune.errors import ConfigError, DataError


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4), (value, 0, 0)).save(buffer, "png")
    return buffer.getvalue()


def write(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def shard(path: Path, labels: list[object], *, start: int = 0, suffix: str = "cls") -> Path:
    files = {}
    for i, label in enumerate(labels, start):
        files[f"{i:04}.png"] = png(i)
        files[f"{i:04}.{suffix}"] = str(label).encode() if suffix == "cls" else json.dumps(label).encode()
    return write(path, files)


def red(image: Image.Image) -> int:
    return int(np.asarray(image)[0, 0, 0])


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    shard(tmp_path / "train-000000.tar", [0, 1, 0])
    shard(tmp_path / "train-000001.tar", [1, 0], start=3)
    shard(tmp_path / "val-000000.tar", [1], start=20)
    write(tmp_path / "test-000000.tar", {"a.png": png(30)})  # labels withheld
    (tmp_path / "classes.txt").write_text("wasp\nbee\n")
    return tmp_path


def test_shards_of_a_folder_in_any_order(shards: Path):
    source = open_source(shards)
    assert source.kind == "webdataset"
    assert source.class_names == ("wasp", "bee")
    train = source.split("train")
    assert train is not None
    assert train.labels == [0, 1, 0, 1, 0]
    assert [red(train.image(i)) for i in (4, 0, 3)] == [4, 0, 3]
    assert train.size(3) == (6, 4)
    assert train.name(3) == "train-000001.tar, 0003"
    assert not source.has_test
    assert source.describe()["split"]["unlabelled"] == ["test"]
    assert red(pickle.loads(pickle.dumps(train)).image(2)) == 2


def test_layout_of_the_hub_and_a_single_tar(shards: Path):
    (shards / "data").mkdir()
    for path in shards.glob("*.tar"):
        path.rename(shards / "data" / path.name)
    assert open_source(shards).describe()["sizes"] == {"train": 5, "val": 1}
    one = shard(shards / "other" / "val.tar", ["b", "a"] * 5)
    assert open_source(one).describe()["sizes"] == {"train": 8, "val": 2}
    assert open_samples(one, ("a", "b")).labels == [1, 0] * 5


def test_an_archive_beside_class_folders_is_no_shard(tmp_path: Path, class_folders):
    shard(class_folders(tmp_path) / "all.tar", [0, 1])
    assert open_source(tmp_path).kind == "folder"


def test_labels_in_json_and_several_images(tmp_path: Path):
    fields = [{"label": name, "coarse": number} for number, name in enumerate("aba")]
    path = shard(tmp_path / "a.tar", list(fields), suffix="json")
    assert open_samples(path, ("a", "b")).labels == [0, 1, 0]
    assert open_samples(path, ("0", "1", "2"), label_column="coarse").labels == [0, 1, 2]
    assert open_samples(shard(path, [1, 0], suffix="json"), ("0", "1")).labels == [1, 0]
    with pytest.raises(DataError, match=r"sample '0000' has no column 'colour' \(label_column\)"):
        open_samples(shard(path, list(fields), suffix="json"), ("a",), label_column="colour")
    two = {"x/1.left.png": png(1), "x/1.right.png": png(2), "x/1.cls": b"a", "._x": b"", "notes": b""}
    write(path, two)
    samples = open_samples(path, ("a",), image_column="right.png")
    assert (samples.name(0), red(samples.image(0))) == ("a.tar, x/1", 2)
    with pytest.raises(
        DataError, match=r"sample 'x/1' has several images .* name one extension with image_column"
    ):
        open_samples(path, ("a",))
    with pytest.raises(DataError, match=r"has no image \(\.left\.png.*image_column asks for \.jpg"):
        open_samples(path, ("a",), image_column="jpg")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"1.cls": b"0"}, r"a\.tar', sample '1' has no image \(\.cls\); expected a file such as \.jpg"),
        ({"1.png": b""}, r"sample '1' has no label \(\.png\); expected a \.cls or \.json file"),
        ({"1.png": b"", "1.json": b"{"}, r"sample '1': its \.json file cannot be read"),
        ({"1.png": b"", "1.json": b'{"x": 1}'}, r"sample '1' has no column of labels: tried cls, label"),
        ({"1.png": b"", "1.json": b"[]"}, r"label \[\] is neither an integer nor text"),
        ({"1.png": b"", "1.cls": b"-1"}, r"label -1 is out of range"),
        ({"1.png": b"", "1.PNG": b""}, r"holds '1\.PNG' twice; write each sample once"),
        ({"notes": b""}, r"holds no samples; expected files such as 0001\.jpg"),
    ],
)
def test_bad_shards(tmp_path: Path, files: dict[str, bytes], message: str):
    with pytest.raises(DataError, match=message):
        open_source(write(tmp_path / "a.tar", files))


def test_files_that_are_no_plain_tars(tmp_path: Path, shards: Path):
    (tmp_path / "x.tar").write_bytes(b"no tar at all" * 100)
    with pytest.raises(
        DataError, match=r"x\.tar' cannot be read as a plain tar: .*; write it without compression"
    ):
        open_source(tmp_path / "x.tar")
    (tmp_path / "x.tar").unlink()
    (tmp_path / "x.tar.gz").touch()
    with pytest.raises(DataError, match=r"x\.tar\.gz' is compressed, .*unpack it to a plain \.tar"):
        open_source(tmp_path / "x.tar.gz")
    shard(shards / "more.tar", [0])
    with pytest.raises(
        DataError, match=r"more\.tar' names no split; start each file's name with one of train"
    ):
        open_source(shards)
    with pytest.raises(ConfigError, match="has no VTAB-1k lists; use 'train'"):
        open_source(shards, train_split="train800")


def test_a_tar_that_became_shorter_and_a_broken_image(tmp_path: Path):
    path = write(tmp_path / "a.tar", {"1.png": b"text", "1.cls": b"0", "2.png": png(2), "2.cls": b"1"})
    samples = open_samples(path, ("0", "1"))
    with pytest.raises(DataError, match=r"image 'a\.tar, 1' cannot be read: it is not an image"):
        samples.image(0)
    path.write_bytes(path.read_bytes()[:1800])
    with pytest.raises(DataError, match=r"a\.tar' ends inside sample '2'; download or write it again"):
        samples.image(1)
    path.unlink()
    with pytest.raises(DataError, match=r"a\.tar' cannot be read: No such file"):
        samples.image(1)
