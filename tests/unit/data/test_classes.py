from __future__ import annotations

import pytest

from vitune.data.classes import (
    check_class_names,
    class_of_number,
    labels_of,
    make_class_map,
    read_classes_file,
)
from vitune.data.listing import FileImages, Layout, Listing
from vitune.errors import DataError


def layout(tmp_path, *classes, declared=None):
    images = FileImages(tmp_path, [f"{i}.png" for i in range(len(classes))])
    return Layout("folder", tmp_path, {"train": Listing.all_of(images, classes)}, declared)


def test_map_is_sorted_by_name_or_by_value(tmp_path):
    assert make_class_map(layout(tmp_path, "b", "a", "b")) == ("a", "b")
    assert make_class_map(layout(tmp_path, "10", "9")) == ("9", "10")
    assert make_class_map(layout(tmp_path, "10", "9", "x")) == ("10", "9", "x")
    assert make_class_map(layout(tmp_path, "b", "a", declared=("b", "c", "a"))) == ("b", "c", "a")


@pytest.mark.parametrize("declared", [None, ("a", "b")])
def test_one_class_is_refused(tmp_path, declared):
    with pytest.raises(
        DataError, match=r"training images of '.*' have one class only \('a'\); two are needed"
    ):
        make_class_map(layout(tmp_path, "a", "a", declared=declared))


def test_classes_file(tmp_path):
    assert read_classes_file(tmp_path) is None
    (tmp_path / "classes.txt").write_text("\ufeffa b\r\nc\r\n\n", encoding="utf-8")
    assert read_classes_file(tmp_path) == ("a b", "c")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", r"classes\.txt' names no class; write one class name a line"),
        (b"a\n\nb\n", r"classes\.txt', line 2 is empty; line n names the class of label n - 1"),
        (b"a\nb\na\n", r"classes\.txt' names the class 'a' twice, on lines 1 and 3"),
        (b"\xff\xfe", r"classes\.txt' is not UTF-8 text; save it as UTF-8"),
    ],
)
def test_bad_classes_file(tmp_path, text, message):
    (tmp_path / "classes.txt").write_bytes(text)
    with pytest.raises(DataError, match=message):
        read_classes_file(tmp_path)


def test_check_of_names_given_in_python():
    check_class_names(("a", "b"), "the given class map")
    with pytest.raises(DataError, match="the given class map names the class 'a' twice"):
        check_class_names(("a", "a"), "the given class map")


def test_numbers():
    assert class_of_number(1, ("a", "b"), "x") == "b"
    assert class_of_number(7, None, "x") == "7"
    with pytest.raises(
        DataError, match=r"x: label 2 is out of range; the labels of this data set are 0\.\.1"
    ):
        class_of_number(2, ("a", "b"), "x")
    with pytest.raises(DataError, match="label -1 is out of range; the labels of this data set are 0, 1, 2"):
        class_of_number(-1, None, "x")


def test_unknown_class_names_the_class_the_file_and_the_nearest(tmp_path):
    listing = layout(tmp_path, "ant", "beee").listings["train"]
    assert labels_of(listing, ("x", "beee", "ant"), "val", "the training images") == [2, 1]
    with pytest.raises(
        DataError,
        match=r"the val split has the class 'beee' \('.*1\.png'\), which is not among the classes of the "
        r"training images; rename or remove it, or train with it\. Did you mean 'bee'\?",
    ):
        labels_of(listing, ("ant", "bee"), "val", "the training images")


def test_long_class_maps_are_not_listed(tmp_path):
    listing = layout(tmp_path, "zebra").listings["train"]
    with pytest.raises(DataError, match=r"There are 30 other classes\.$"):
        labels_of(listing, [str(i) for i in range(30)], "val", "the given class map")
