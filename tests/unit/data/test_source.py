from __future__ import annotations

import json

import pytest

from vitune.data import images, open_source
from vitune.errors import ConfigError, DataError


@pytest.fixture
def data(tmp_path, class_folders):
    for split, count in (("train", 4), ("val", 2), ("test", 3)):
        class_folders(tmp_path / split, count=count)
    return tmp_path


def spoil(path):
    path.write_text("text")


def test_splits(data):
    source = open_source(data)
    train, val = source.split("train"), source.split("val")
    assert source.class_names == ("ant", "bee")
    assert source.kind == "folder"
    assert (train.split, val.split) == ("train", "val")
    assert train.labels == [0] * 4 + [1] * 4
    assert train.name(4) == "train/bee/0.png"
    assert train.image(4).size == (12, 10)
    assert train.size(4) == (12, 10)


def test_test_split_is_sealed(data):
    source = open_source(data)
    with pytest.raises(ConfigError, match=r"the test split is sealed: open it with open_test\(reason="):
        source.split("test")  # pyright: ignore[reportArgumentType]
    with pytest.raises(
        ConfigError, match="the test split opens for evaluate or final only, not for 'selection'"
    ):
        source.open_test("selection")  # pyright: ignore[reportArgumentType]
    assert source.test_openings == ()
    assert len(source.open_test("final")) == 6
    source.open_test("evaluate")
    assert source.test_openings == ("final", "evaluate")
    assert source.describe()["test_openings"] == ["final", "evaluate"]


def test_unknown_split(data):
    with pytest.raises(ConfigError, match="there is no split 'valid'; use 'train' or 'val'"):
        open_source(data).split("valid")  # pyright: ignore[reportArgumentType]


def test_no_test_split(tmp_path, class_folders):
    source = open_source(class_folders(tmp_path))
    assert not source.has_test
    with pytest.raises(DataError, match="has no labelled test split; its splits are train, val"):
        source.open_test("final")
    assert source.test_openings == ()


@pytest.mark.parametrize("split", ["val", "test"])
def test_class_that_train_lacks_is_named(data, class_folders, split):
    class_folders(data / split, ("cow",))
    with pytest.raises(
        DataError,
        match=rf"{split} split has the class 'cow' \('.*{split}/cow/0\.png'\), which is not among",
    ):
        open_source(data)


def test_describe_is_json_and_decodes_nothing(data, monkeypatch):
    monkeypatch.setattr(images, "_decode", None)
    monkeypatch.setattr(images.Image, "open", None)
    found = json.loads(json.dumps(open_source(data).describe()))
    assert found["class_names"] == ["ant", "bee"]
    assert found["class_map"] == "training images"
    assert found["sizes"] == {"test": 6, "train": 8, "val": 4}
    assert found["split"]["folders"] == {"test": "test", "train": "train", "val": "val"}
    assert found["path"] == str(data)


def test_digests_change_with_the_list_of_files(data, save):
    before = open_source(data).describe()["digests"]
    assert open_source(data).describe()["digests"] == before
    save(data / "val" / "ant" / "new.png")
    after = open_source(data).describe()["digests"]
    assert [split for split in before if before[split] != after[split]] == ["val"]


def test_other_class_map_is_matched_by_name(data):
    source = open_source(data)
    other = source.with_classes(("bee", "cow", "ant"))
    assert other.class_names == ("bee", "cow", "ant")
    assert other.split("train").labels == [2] * 4 + [0] * 4
    assert other.describe()["class_map"] == "given"
    assert other.describe()["classes_without_training_images"] == ["cow"]
    assert source.split("train").labels == [0] * 4 + [1] * 4
    other.open_test("evaluate")
    assert source.test_openings == ("evaluate",)
    with pytest.raises(DataError, match=r"class 'ant' .* not among the classes of the given class map"):
        source.with_classes(("bee", "cow"))
    with pytest.raises(DataError, match="the given class map names the class 'bee' twice"):
        source.with_classes(("bee", "bee", "ant"))


def test_bad_image_is_an_error_when_it_is_read(data):
    spoil(data / "train" / "ant" / "1.png")
    train = open_source(data).split("train")
    assert len(train) == 8
    with pytest.raises(DataError, match=r"train/ant/1\.png' cannot be read"):
        train.image(1)


def test_bad_images_are_skipped_up_front_and_recorded(data):
    spoil(data / "train" / "ant" / "1.png")
    spoil(data / "val" / "bee" / "0.png")
    spoil(data / "test" / "bee" / "2.png")
    source = open_source(data, on_bad_image="skip")
    found = source.describe()
    assert found["sizes"] == {"train": 7, "val": 3, "test": 6}
    assert list(found["bad_images"]) == ["train", "val"]
    assert "cannot be read" in found["bad_images"]["train"]["train/ant/1.png"]
    train = source.split("train")
    assert [train.name(i) for i in range(2)] == ["train/ant/0.png", "train/ant/2.png"]
    assert len(train.labels) == 7
    assert source.split("val").skipped == ("val/bee/0.png",)
    assert source.open_test("final").skipped == ("test/bee/2.png",)
    assert source.describe()["bad_images"]["test"].keys() == {"test/bee/2.png"}


def test_skipping_does_not_move_the_held_out_images(tmp_path, class_folders):
    class_folders(tmp_path, count=10)
    val = open_source(tmp_path).describe()["split"]["validation"]["val"]
    spoil(tmp_path / val[0])
    source = open_source(tmp_path, on_bad_image="skip")
    assert [source.split("val").name(i) for i in range(3)] == val[1:]


def test_class_or_split_without_a_readable_image(data):
    for path in (data / "val").rglob("*.png"):
        spoil(path)
    with pytest.raises(DataError, match="no image of the val split can be read; the first error is: image '"):
        open_source(data, on_bad_image="skip")
    for path in (data / "train" / "bee").iterdir():
        spoil(path)
    with pytest.raises(
        DataError, match="no image of the class 'bee' in the train split can be read; the first error"
    ):
        open_source(data, on_bad_image="skip")


def test_samples_have_a_range_and_subsets(data):
    train = open_source(data).split("train")
    some = train.subset([5, 0])
    assert (some.labels, [some.name(i) for i in range(2)]) == ([1, 0], ["train/bee/1.png", "train/ant/0.png"])
    for index in (8, -1):
        with pytest.raises(IndexError, match=f"index {index} is not among the 8 samples of the train split"):
            train.image(index)
