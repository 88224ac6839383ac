from __future__ import annotations

import os

import pytest

from vitune.data import open_source
from vitune.data.folder import has_split_folders, read_class_folders, read_split_folders
from vitune.errors import DataError


def test_classes_are_folders_and_files_are_sorted(tmp_path, class_folders, save):
    class_folders(tmp_path, ("b", "a"), count=2)
    save(tmp_path / "a" / "deep" / "0.jpg")
    listing = read_class_folders(tmp_path).listings["all"]
    assert listing.names() == ["a/0.png", "a/1.png", "a/deep/0.jpg", "b/0.png", "b/1.png"]
    assert list(listing.classes) == ["a", "a", "a", "b", "b"]


def test_hidden_and_foreign_files_are_ignored(tmp_path, class_folders):
    class_folders(tmp_path)
    before = read_class_folders(tmp_path).listings["all"].digest()
    for name in (".DS_Store", "ant/.DS_Store", "ant/._0.png", "ant/readme.txt", "notes.md"):
        (tmp_path / name).write_text("x")
    (tmp_path / ".cache" / "z").mkdir(parents=True)
    (tmp_path / "__MACOSX" / "ant").mkdir(parents=True)
    assert read_class_folders(tmp_path).listings["all"].digest() == before


@pytest.mark.parametrize("word", ["val", "valid", "validation", "Val"])
def test_split_folders(tmp_path, class_folders, word):
    for split, count in (("train", 3), (word, 2), ("test", 1), ("extra", 1)):
        class_folders(tmp_path / split, count=count)
    layout = read_split_folders(tmp_path)
    assert {split: len(listing) for split, listing in layout.listings.items()} == {
        "train": 6,
        "val": 4,
        "test": 2,
    }
    assert layout.rule["ignored_folders"] == ["extra"]
    assert layout.listings["val"].names()[0] == f"{word}/ant/0.png"


def test_two_validation_folders_are_refused(tmp_path, class_folders):
    for split in ("train", "val", "valid"):
        class_folders(tmp_path / split)
    with pytest.raises(DataError, match="two folders for the val split, 'val' and 'valid'; keep one"):
        open_source(tmp_path)


@pytest.mark.parametrize("place", ["train", "val", "test"])
def test_empty_class_folder_is_named(tmp_path, class_folders, place):
    for split in ("train", "val", "test"):
        class_folders(tmp_path / split)
    (tmp_path / place / "cat").mkdir()
    (tmp_path / place / "cat" / ".DS_Store").touch()
    with pytest.raises(
        DataError, match=rf"class folder '.*{place}/cat' holds no image; fill it or remove it"
    ):
        open_source(tmp_path)


def test_train_may_be_a_class(tmp_path, class_folders):
    class_folders(tmp_path, ("bus", "car", "train"))
    assert not has_split_folders(tmp_path)
    assert open_source(tmp_path).class_names == ("bus", "car", "train")


def test_split_folders_of_images_alone_are_not_taken_for_classes(tmp_path, class_folders):
    class_folders(tmp_path, ("train", "test"))
    with pytest.raises(
        DataError, match=r"'.*/(train|test)' holds images but no folders; expected one folder"
    ):
        open_source(tmp_path)


def test_images_without_class_folders(tmp_path, save):
    save(tmp_path / "0.png")
    with pytest.raises(
        DataError, match="holds images but no folders; expected one folder of images for each class"
    ):
        open_source(tmp_path)


def test_empty_folder(tmp_path):
    with pytest.raises(DataError, match="holds neither folders nor images"):
        open_source(tmp_path)


def test_pacs_domain(unpacked):
    source = open_source(unpacked("pacs") / "sketch")
    assert source.class_names == ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")
    sizes = source.describe()["sizes"]
    assert sizes["val"] == round(0.2 * (sizes["train"] + sizes["val"]))
    train = source.split("train")
    assert train is not None
    assert train.image(0).mode == "RGB"


def test_file_names_need_not_be_utf8(tmp_path, class_folders):
    class_folders(tmp_path)
    for name in (b"caf\xe9.png", b"\xff.png"):
        os.rename(tmp_path / "ant" / "0.png", os.fsencode(tmp_path / "ant") + b"/" + name)
        class_folders(tmp_path, ("ant",), count=1)
    source = open_source(tmp_path)
    assert source.describe()["sizes"] == {"train": 10, "val": 2}
    train = source.split("train")
    assert all(train.image(index).size == (12, 10) for index in range(10))
