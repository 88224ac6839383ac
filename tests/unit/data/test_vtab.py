from __future__ import annotations

import pytest

from vitune.data import open_source
from vitune.errors import ConfigError, DataError


def test_default_trains_on_800_and_selects_on_200(vtab):
    source = open_source(vtab)
    assert source.kind == "vtab"
    assert source.class_names == ("wasp", "bee")
    assert source.describe()["sizes"] == {"train": 6, "val": 2, "test": 4}
    train, val = source.split("train"), source.split("val")
    assert [train.name(i) for i in range(2)] == ["images/0.png", "images/1.png"]
    assert train.labels == [0, 1, 0, 1, 0, 1]
    assert val.labels == [0, 1]
    assert open_source(vtab, train_split="train800").describe() == source.describe()


def test_train800val200_has_no_validation_split(vtab):
    source = open_source(vtab, train_split="train800val200")
    assert source.split("val") is None
    assert len(source.split("train")) == 8
    assert source.describe()["sizes"] == {"train": 8, "test": 4}


def test_lists_need_neither_class_names_nor_a_test_list(vtab):
    (vtab / "classes.txt").unlink()
    (vtab / "test.txt").unlink()
    source = open_source(vtab)
    assert source.class_names == ("0", "1")
    assert not source.has_test


def test_paths_with_spaces_and_blank_lines(vtab, save):
    save(vtab / "images" / "a b.png")
    with (vtab / "val200.txt").open("a") as file:
        file.write("\n  images/a b.png\t1 \n\n")
    val = open_source(vtab).split("val")
    assert val.name(2) == "images/a b.png"
    assert val.labels[2] == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("images/0.png", "has no label: 'images/0.png'; write 'PATH LABEL'"),
        ("images/0.png wasp", "has the label 'wasp', which is not an integer"),
        ("images/0.png 2", r"label 2 is out of range; the labels of this data set are 0\.\.1"),
        ("images/0.png -1", r"label -1 is out of range"),
        ("../0.png 1", r"points outside the folder: '\.\./0\.png'"),
        ("images/../../0.png 1", "points outside the folder"),
        ("images\\..\\..\\0.png 1", "points outside the folder"),
        ("/etc/hosts.png 1", "points outside the folder: '/etc/hosts.png'"),
        ("images/none.png 1", r"there is no file 'images/none\.png' in"),
    ],
)
@pytest.mark.parametrize("name", ["train800.txt", "val200.txt", "test.txt"])
def test_bad_line_is_named(vtab, line, message, name):
    lines = (vtab / name).read_text().splitlines()
    (vtab / name).write_text("\n".join([lines[0], line, *lines[1:]]))
    with pytest.raises(DataError, match=rf"'.*{name}', line 2:? {message}"):
        open_source(vtab)


def test_label_that_train_lacks_without_class_names(vtab):
    (vtab / "classes.txt").unlink()
    with (vtab / "test.txt").open("a") as file:
        file.write("images/0.png 7\n")
    with pytest.raises(
        DataError, match=r"test split has the class '7' \('.*test\.txt', line 5\), which is not among"
    ):
        open_source(vtab)


def test_declared_class_without_training_images_keeps_its_label(vtab):
    (vtab / "classes.txt").write_text("fly\nwasp\nbee\n")
    text = (vtab / "train800.txt").read_text().replace(" 1\n", " 2\n")
    (vtab / "train800.txt").write_text(text)
    source = open_source(vtab)
    assert source.class_names == ("fly", "wasp", "bee")
    assert source.describe()["classes_without_training_images"] == ["wasp"]
    assert source.split("train").labels == [0, 2, 0, 2, 0, 2]


def test_missing_empty_and_binary_lists(vtab):
    (vtab / "val200.txt").rename(vtab / "val.txt")
    with pytest.raises(DataError, match=r"has no 'val200\.txt'; the lists there are: .*val\.txt"):
        open_source(vtab)
    (vtab / "val200.txt").write_text("\n\n")
    with pytest.raises(DataError, match=r"val200\.txt' lists no image; write lines such as"):
        open_source(vtab)
    (vtab / "val200.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"val200\.txt' is not UTF-8 text"):
        open_source(vtab)


def test_unknown_train_split(vtab):
    with pytest.raises(ConfigError, match=r"train_split is 'train80'. Did you mean 'train800'"):
        open_source(vtab, train_split="train80")  # pyright: ignore[reportArgumentType]


def test_caltech101(unpacked):
    folder = unpacked("caltech101")
    source = open_source(folder)
    assert source.describe()["sizes"] == {"train": 800, "val": 200, "test": 2000}
    assert len(source.class_names) == 102
    assert source.describe()["classes_without_training_images"] == []
    train = source.split("train")
    assert min(train.image(0).size) == 128
    assert len(open_source(folder, train_split="train800val200").split("train")) == 1000
