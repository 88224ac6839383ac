from __future__ import annotations

from collections import Counter

import pytest

from vitune.data import open_samples, open_source
from vitune.errors import ConfigError, DataError


@pytest.fixture
def folder(tmp_path, save):
    """Two classes of six training images, with a validation split."""
    for split, count in (("train", 6), ("val", 1)):
        for name in ("ant", "bee"):
            for i in range(count):
                save(tmp_path / "data" / split / name / f"{i}.png")
    return tmp_path / "data"


def names(source) -> list[str]:
    train = source.split("train")
    return [train.name(i) for i in range(len(train))]


def test_so_many_of_each_class_and_always_the_same(folder):
    source = open_source(folder, shots=2)
    assert Counter(source.split("train").labels) == {0: 2, 1: 2}
    assert len(source.split("val")) == 2
    assert names(source) == names(open_source(folder, shots=2, seed=9))  # the split's seed has no part in it
    others = [names(open_source(folder, shots=2, shot_seed=seed)) for seed in range(5)]
    assert others[0] == names(source)
    assert len({tuple(found) for found in others}) > 1
    assert source.describe()["split"]["few_shot"]["train"] == names(source)
    assert source.describe()["split"]["few_shot"]["seed"] == 0


def test_more_shots_hold_the_fewer_ones(folder):
    two, four = (set(names(open_source(folder, shots=shots))) for shots in (2, 4))
    assert two < four


def test_validation_is_held_out_of_the_shots(folder):
    shots = set(names(open_source(folder / "train", shots=4, val_fraction=0)))
    source = open_source(folder / "train", shots=4, val_fraction=0.25)
    val = source.split("val")
    held = {val.name(i) for i in range(len(val))}
    assert len(held) == 2
    assert held | set(names(source)) == shots
    again = open_samples(folder / "train", source.class_names, "train", shots=4, val_fraction=0.25)
    assert [again.name(i) for i in range(len(again))] == names(source)


def test_too_many_shots(folder):
    (folder / "train" / "bee" / "0.png").unlink()
    with pytest.raises(
        DataError, match=r"the class 'bee' of .* has 5 training images, fewer than shots 6; use 5 or fewer"
    ):
        open_source(folder, shots=6)
    with pytest.raises(ConfigError, match=r"shots must be at least 1, not 0"):
        open_source(folder, shots=0)
    with pytest.raises(ConfigError, match=r"shot_seed must be at least 0, not -1"):
        open_source(folder, shots=1, shot_seed=-1)


@pytest.fixture(params=["images", ""])
def lists(request, tmp_path, save):
    """Published lists, with images below `images/` or beside the lists."""
    root = tmp_path / "pets"
    for name in ("a b_1", "c_1", "a b_2", "c_2"):
        save(root / request.param / f"{name}.png")
    annotations = root / "annotations"
    annotations.mkdir(parents=True)
    (annotations / "train_meta.list.num_shot_1.seed_0").write_text("a b_1.png 0\nc_1.png 1\na b_1.png 0\n")
    (annotations / "train_meta.list.num_shot_1.seed_1").write_text("a b_2.png 0\nc_2.png 1\n")
    (annotations / "val_meta.list").write_text("c_2.png 1\n")
    (annotations / "test_meta.list").write_text("a b_2.png 0\nc_1.png 1\n")
    return root


def test_published_lists(lists):
    source = open_source(lists, shots=1)
    assert source.kind == "few-shot"
    assert names(source) == ["a b_1.png", "c_1.png"]  # one of them stands twice in the list
    assert source.split("train").labels == [0, 1]
    assert source.describe()["sizes"] == {"train": 2, "val": 1, "test": 2}
    assert source.describe()["split"]["lists"]["train"] == "annotations/train_meta.list.num_shot_1.seed_0"
    assert names(open_source(lists, shots=1, shot_seed=1)) == ["a b_2.png", "c_2.png"]
    assert len(open_samples(lists, source.class_names, "test")) == 2
    assert source.split("train").image(0).size


def test_published_lists_without_a_test_list(lists):
    (lists / "annotations" / "test_meta.list").unlink()
    assert open_source(lists, shots=1, val_fraction=0).describe()["sizes"] == {"train": 2, "test": 1}


def test_imagenet_has_a_validation_list_of_training_images(lists):
    annotations = lists / "annotations"
    (annotations / "test_meta.list").unlink()
    (annotations / "unofficial_val_list_4_shot16seed0").write_text("a b_2.png 0\nc_1.png 1\n")
    source = open_source(lists, shots=1)
    assert source.describe()["sizes"] == {"train": 2, "val": 1, "test": 1}
    assert source.split("val").name(0) == "a b_2.png"  # the other one is trained on


def test_a_list_to_test_on_alone(lists):
    for path in (lists / "annotations").glob("train_meta*"):
        path.unlink()
    assert open_samples(lists, ("0", "1")).labels == [0, 1]
    with pytest.raises(DataError, match="has no training split, only val, test"):
        open_source(lists)


def test_a_list_that_is_not_there(lists):
    with pytest.raises(
        ConfigError, match=r"no list of 2 shots with seed 0; it has: 1 \(seed 0\), 1 \(seed 1\)\."
    ):
        open_source(lists, shots=2)
    with pytest.raises(ConfigError, match=r"has few-shot lists; say how many shots: 1\."):
        open_source(lists)
    with pytest.raises(ConfigError, match="has no VTAB-1k lists; use 'train'"):
        open_source(lists, shots=1, train_split="train800")


def test_an_image_that_is_not_there(lists):
    (lists / "annotations" / "train_meta.list.num_shot_1.seed_0").write_text("none.png 0\n")
    with pytest.raises(DataError, match=r"there is no file 'none\.png' in"):
        open_source(lists, shots=1)
