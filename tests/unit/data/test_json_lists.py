from __future__ import annotations

import json

import pytest

from vitune.data import open_samples, open_source
from vitune.data.json_lists import is_json_folder, missing
from vitune.errors import DataError


@pytest.fixture
def fgvc(tmp_path, save):
    """Write a set: image paths to numbers below an image folder, so many images for train, val and test."""

    def make(below: str, path: str, numbers: tuple[int, ...] = (1, 4, 11)):
        root, count = tmp_path / "set", 0
        for split, each in (("train", 3), ("val", 1), ("test", 2)):
            entries = {}
            for number in numbers:
                for _ in range(each):
                    count += 1
                    name = path.format(number=number, count=count, split=split)
                    save(root / below / name)
                    entries[name] = number
            (root / f"{split}.json").write_text(json.dumps(entries))
        return root

    return make


@pytest.mark.parametrize(
    ("below", "path", "names"),
    [
        ("images", "{number:03d}.Bird/{count}.png", ("001.Bird", "004.Bird", "011.Bird")),  # CUB, NABirds
        ("Images", "n{number:02d}-Dog/{count}.png", ("n01-Dog", "n04-Dog", "n11-Dog")),  # Stanford Dogs
        ("", "jpg/image_{count:05d}.png", ("1", "4", "11")),  # Oxford Flowers
        ("", "cars_{split}/{count:05d}.png", ("1", "4", "11")),  # Stanford Cars
    ],
)
def test_the_layouts_of_the_five_sets(fgvc, below, path, names):
    root = fgvc(below, path)
    source = open_source(root)
    assert source.kind == "json-lists"
    assert source.class_names == names  # in the order of the numbers: contiguous labels, as in VPT
    assert source.split("train").labels == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert source.split("val").labels == [0, 1, 2]
    test = source.open_test("evaluate")
    assert test.labels == [0, 0, 1, 1, 2, 2]
    assert test.image(5).size == (12, 10)
    again = open_samples(root, names[::-1])
    assert again.labels == [2, 2, 1, 1, 0, 0]
    assert missing(root, classes=3) == []


def test_without_validation_a_part_of_train_is_held_out(fgvc):
    root = fgvc("images", "{number}/{count}.png")
    (root / "val.json").unlink()
    assert open_source(root).describe()["sizes"] == {"train": 6, "test": 6, "val": 3}
    assert missing(root) == [
        f"'{root / 'val.json'}' is missing: the val split of VPT, an object of image path to class number."
    ]


def test_annotations_of_other_kinds_are_not_splits(tmp_path):
    (tmp_path / "train.json").write_text(json.dumps({"images": [{"id": 1}], "annotations": []}))
    assert not is_json_folder(tmp_path)
    (tmp_path / "train.json").write_text(json.dumps([1, 2]))
    assert not is_json_folder(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no JSON file"),
        (
            '{"a/1.png": 1, "a/2.png": "dog"}',
            r"the image 'a/2\.png' has the class 'dog'; classes are whole numbers",
        ),
        ('{"a/1.png": -1}', "has the class -1"),
        ('{"a/1.png": true}', "has the class True"),
        ('{"../1.png": 1}', r"points outside the folder: '\.\./1\.png'"),
        ('{"none.png": 1}', "there is no image 'none.png' in"),
    ],
)
def test_mistakes(fgvc, text, message):
    root = fgvc("images", "{number}/{count}.png")
    (root / "train.json").write_text(text)
    with pytest.raises(DataError, match=message):
        open_source(root)
    assert len(missing(root)) == 1


def test_an_image_that_is_not_there(fgvc):
    root = fgvc("images", "{number}/{count}.png")
    (root / "images" / "1" / "2.png").unlink()
    with pytest.raises(DataError, match=r"train\.json', entry 2: there is no file '1/2\.png'"):
        open_source(root)


def test_what_is_missing(fgvc, tmp_path):
    root = fgvc("images", "{number}/{count}.png")
    assert missing(root, classes=200) == [f"'{root / 'train.json'}' has 3 classes, expected 200."]
    assert "there is no folder" in missing(tmp_path / "none")[0]
    (tmp_path / "empty").mkdir()
    assert len(missing(tmp_path / "empty")) == 3
