from __future__ import annotations

import io
import json
import pickle
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vitune.data import open_samples, open_source, parquet_images
from vitune.data.parquet_images import ParquetImages, Shard
from vitune.errors import ConfigError, DataError


def encoded(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4), (value, 0, 0)).save(buffer, "png")
    return buffer.getvalue()


def write(path, labels, *, names=None, images=None, struct=True, group=3, start=0):
    images = [encoded(start + i) for i in range(len(labels))] if images is None else images
    column = pa.array([{"bytes": b, "path": None} for b in images]) if struct else pa.array(images)
    table = pa.table({"image": column, "label": pa.array(labels)})
    if names is not None:
        features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=group)
    return path


def red(image: Image.Image) -> int:
    return int(np.asarray(image)[0, 0, 0])


@pytest.fixture
def shards(tmp_path):
    names = ["wasp", "bee"]
    write(tmp_path / "train-00000-of-00002.parquet", [0, 1, 0, 1, 0], names=names)
    write(tmp_path / "train-00001-of-00002.parquet", [1, 0], names=names, start=5)
    write(tmp_path / "validation-00000-of-00001.parquet", [1, 0], names=names, start=20)
    write(tmp_path / "test.parquet", [1], names=names, start=30)
    return tmp_path


def test_shards_of_a_folder(shards):
    source = open_source(shards)
    assert source.kind == "hf-parquet"
    assert source.class_names == ("wasp", "bee")
    train = source.split("train")
    assert train.labels == [0, 1, 0, 1, 0, 1, 0]
    assert [red(train.image(i)) for i in (6, 0, 3, 5, 2)] == [6, 0, 3, 5, 2]
    assert train.name(5) == "train-00001-of-00002.parquet, row 1"
    assert red(source.split("val").image(1)) == 21
    assert red(source.open_test("final").image(0)) == 30


def test_hub_layout_with_a_data_folder(shards):
    (shards / "data").mkdir()
    for path in shards.glob("*.parquet"):
        path.rename(shards / "data" / path.name)
    assert open_source(shards).describe()["sizes"] == {"train": 7, "val": 2, "test": 1}


def test_one_file_of_plain_bytes_is_split_by_rule(tmp_path):
    path = write(tmp_path / "val.parquet", ["b", "a"] * 5, struct=False)
    source = open_source(path)
    assert source.class_names == ("a", "b")
    assert source.describe()["sizes"] == {"train": 8, "val": 2}


def test_names_of_classes_txt(tmp_path):
    path = write(tmp_path / "a.parquet", [0, 2, 0, 2])
    (tmp_path / "classes.txt").write_text("x\ny\nz\n")
    source = open_source(path)
    assert source.class_names == ("x", "y", "z")
    assert source.describe()["classes_without_training_images"] == ["y"]


def test_single_file_is_the_test_split_as_a_whole(shards):
    samples = open_samples(shards / "validation-00000-of-00001.parquet", ("bee", "wasp"))
    assert samples.labels == [0, 1]


def test_withheld_test_labels_leave_no_test_split(shards):
    write(shards / "test.parquet", [-1, -1], names=["wasp", "bee"])
    source = open_source(shards)
    assert not source.has_test
    assert source.describe()["split"]["unlabelled"] == ["test"]
    with pytest.raises(DataError, match="has no labelled test split; its splits are train, val"):
        source.open_test("final")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda d: write(d / "train-x.parquet", [0, 5]),
            r"train-x\.parquet', row 2: label 5 is out of range; .*0\.\.1",
        ),
        (
            lambda d: write(d / "train-x.parquet", [0, None]),
            r"train-x\.parquet', row 2: label None is neither",
        ),
        (
            lambda d: write(d / "train-x.parquet", [0.5, 1]),
            r"train-x\.parquet', row 1: label 0\.5 is neither",
        ),
        (
            lambda d: write(d / "other.parquet", [0, 1]),
            r"other\.parquet' names no split; start each file's name",
        ),
        (
            lambda d: (d / "test.parquet").write_bytes(b"PAR1 and no more"),
            r"test\.parquet' cannot be read as Parquet",
        ),
        (
            lambda d: pq.write_table(pq.read_table(d / "test.parquet").slice(0, 0), d / "test.parquet"),
            r"test\.parquet' has no rows; expected one image a row",
        ),
        (
            lambda d: pq.write_table(pa.table({"image": [b"x"]}), d / "train-x.parquet"),
            r"has no column 'label', which",
        ),
        (
            lambda d: pq.write_table(pa.table({"image": [1], "label": [1]}), d / "test.parquet"),
            r"test\.parquet': column 'image' is of type int64; expected encoded bytes or paths",
        ),
        (
            lambda d: write(d / "test.parquet", [0, 1], names=["a", "a"]),
            r"ClassLabel of .* names the class 'a' twice",
        ),
    ],
)
def test_bad_shards(shards, change, message):
    change(shards)
    with pytest.raises(DataError, match=message):
        open_source(shards)


def test_unreadable_header(tmp_path):
    table = pa.table({"image": [encoded(0)], "label": [0]}).replace_schema_metadata({"huggingface": "{"})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match="has a Hugging Face header that cannot be read"):
        open_source(tmp_path / "a.parquet")


def test_row_without_bytes_and_broken_image(tmp_path):
    path = write(tmp_path / "a.parquet", [0, 1, 1], images=[None, b"text", encoded(1)])
    samples = open_samples(path, ("0", "1"))
    with pytest.raises(DataError, match=r"image 'a\.parquet, row 1' holds no bytes; embed the image"):
        samples.image(0)
    with pytest.raises(DataError, match=r"image 'a\.parquet, row 2' cannot be read: it is not an image"):
        samples.image(1)


def test_table_of_paths(tmp_path, save):
    for number in range(4):
        save(tmp_path / f"{number}.png")
    columns = {"path": [f"{i}.png" for i in range(4)], "label": [0, 1, 0, 1]}
    pq.write_table(pa.table(columns | {"split": ["train"] * 3 + ["test"]}), tmp_path / "a.parquet")
    source = open_source(tmp_path / "a.parquet", val_fraction=0)
    assert source.kind == "table"
    assert source.describe()["sizes"] == {"train": 3, "test": 1}
    pq.write_table(pa.table(columns | {"label": [0, None, 0, 1]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet', row 2 has no label"):
        open_source(tmp_path)
    pq.write_table(pa.table(columns), tmp_path / "b.parquet")
    with pytest.raises(DataError, match="holds 2 Parquet tables of image paths; name one of them"):
        open_source(tmp_path)


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    path = write(tmp_path / "a.parquet", [0, 1])
    for name in [name for name in sys.modules if name.split(".")[0] == "pyarrow"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(
        ConfigError, match=r"Reading Parquet files needs .*'pyarrow'.*pip install 'vitune\[parquet\]'"
    ):
        open_source(path)


def test_row_groups_beyond_the_limit_are_read_again(tmp_path, monkeypatch):
    path = write(tmp_path / "a.parquet", [0] * 7, group=2)
    images = ParquetImages([Shard(path, 7)], "image")
    monkeypatch.setattr(parquet_images, "HELD_BYTES", 1)
    assert [red(images.image(i)) for i in (0, 6, 3, 0, 1)] == [0, 6, 3, 0, 1]
    assert len(images._held) == 1


def test_images_travel_to_another_process_without_their_bytes(tmp_path):
    path = write(tmp_path / "a.parquet", [0] * 7)
    images = ParquetImages([Shard(path, 7)], "image")
    assert red(images.image(4)) == 4
    data = pickle.dumps(images)
    assert encoded(4) not in data
    assert red(pickle.loads(data).image(4)) == 4
    assert images.size(4) == (6, 4)


def test_tiny_imagenet(shared_data):
    source = open_source(shared_data / "tiny-imagenet")
    assert source.describe()["sizes"] == {"train": 72000, "val": 5000}
    assert len(source.class_names) == 200
    lines = (shared_data / "tiny-imagenet" / "classes.txt").read_text().splitlines()
    assert source.class_names == tuple(line.split()[0] for line in lines)
    train = source.split("train")
    assert train.image(71999).size == (64, 64)
