from __future__ import annotations

import pytest

from vitune.data import open_samples, open_source
from vitune.errors import ConfigError, DataError


def test_missing_path():
    with pytest.raises(DataError, match="the data 'no/such/place' do not exist; give a folder"):
        open_source("no/such/place")


def test_unknown_kind_of_file(tmp_path):
    (tmp_path / "data.zip").touch()
    with pytest.raises(
        DataError, match=r"'.*data\.zip' is no kind of data that can be read; give a folder, or a file of"
    ):
        open_source(tmp_path / "data.zip")


def test_list_splits_need_lists(tmp_path, class_folders):
    with pytest.raises(
        ConfigError, match=r"train_split is 'train800', but '.*' has no VTAB-1k lists; use 'train'"
    ):
        open_source(class_folders(tmp_path), train_split="train800")


def test_test_folder_alone_cannot_be_trained_on_but_evaluated(tmp_path, class_folders):
    class_folders(tmp_path / "test")
    with pytest.raises(
        DataError, match="has no training split, only test; add it, or evaluate on these data"
    ):
        open_source(tmp_path)
    assert len(open_samples(tmp_path, ("ant", "bee"))) == 10


def test_validation_is_held_out_only_where_none_is_given(tmp_path, class_folders):
    class_folders(tmp_path / "train")
    class_folders(tmp_path / "test", count=1)
    assert open_source(tmp_path).describe()["sizes"] == {"train": 8, "test": 2, "val": 2}
    class_folders(tmp_path / "val", count=3)
    assert open_source(tmp_path).describe()["sizes"] == {"train": 10, "val": 6, "test": 2}


def test_samples_of_a_folder_of_class_folders(tmp_path, class_folders):
    class_folders(tmp_path)
    samples = open_samples(tmp_path, ("cow", "bee", "ant"))
    assert len(samples) == 10
    assert samples.split == "test"
    assert samples.class_names == ("cow", "bee", "ant")
    assert set(samples.labels) == {1, 2}
    assert [samples.labels[i] for i in range(10)] == [
        2 if samples.name(i).startswith("ant") else 1 for i in range(10)
    ]


def test_samples_of_one_class_or_of_part_of_the_map(tmp_path, class_folders):
    assert open_samples(class_folders(tmp_path, ("ant",)), ("ant", "bee")).labels == [0] * 5


def test_samples_with_an_unknown_class(tmp_path, class_folders):
    with pytest.raises(
        DataError, match=r"test split has the class 'bee' \('.*bee/0\.png'\), .* of the given class map"
    ):
        open_samples(class_folders(tmp_path), ("ant", "cow"))


def test_samples_look_at_no_other_split(tmp_path, class_folders):
    class_folders(tmp_path / "train", ("ant", "unknown"))
    class_folders(tmp_path / "test", ("ant", "bee"))
    assert len(open_samples(tmp_path, ("ant", "bee"))) == 10


def test_samples_of_val_are_those_of_the_run(tmp_path, class_folders):
    class_folders(tmp_path, count=10)
    for seed in (0, 1):
        val = open_source(tmp_path, seed=seed, val_fraction=0.3).split("val")
        samples = open_samples(tmp_path, ("bee", "ant"), "val", seed=seed, val_fraction=0.3)
        assert [samples.name(i) for i in range(6)] == [val.name(i) for i in range(6)]
        assert samples.labels == [1 - label for label in val.labels]


def test_samples_of_lists(vtab):
    assert open_samples(vtab, ("bee", "wasp")).labels == [1, 0, 1, 0]
    assert len(open_samples(vtab, ("bee", "wasp"), "train", train_split="train800val200")) == 8
    with pytest.raises(DataError, match="has no labelled val split; its splits are train, test"):
        open_samples(vtab, ("bee", "wasp"), "val", train_split="train800val200")


def test_samples_skip_and_report_bad_images(tmp_path, class_folders):
    (class_folders(tmp_path) / "ant" / "2.png").write_text("text")
    samples = open_samples(tmp_path, ("ant", "bee"), on_bad_image="skip")
    assert len(samples) == 9
    assert samples.skipped == ("ant/2.png",)


def test_bad_settings(tmp_path, class_folders):
    class_folders(tmp_path)
    with pytest.raises(ConfigError, match="there is no split 'dev'; use 'train', 'val' or 'test'"):
        open_samples(tmp_path, ("ant", "bee"), "dev")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match=r"on_bad_image is 'skipp'. Did you mean 'skip'"):
        open_source(tmp_path, on_bad_image="skipp")  # pyright: ignore[reportArgumentType]
    with pytest.raises(DataError, match="the given class map names the class 'ant' twice"):
        open_samples(tmp_path, ("ant", "ant"))
