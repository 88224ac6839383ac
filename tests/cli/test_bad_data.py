"""Every way in which data can be wrong has its own sentence; nothing is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import QUICK, FinishedRun, Refused, Run
from tests.cli.small_images import CLASSES, write_classes, write_image, write_splits, write_vtab

TRAIN = ("--method", "linear", *QUICK)


def test_missing_folder(refused: Refused) -> None:
    assert "the data 'nowhere' do not exist; give a folder" in refused("train", "nowhere", *TRAIN)


def test_no_data_at_all(refused: Refused) -> None:
    assert refused("train", "--method", "ssf").startswith("no data given; name a folder of images or a table")


def test_empty_folder(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    sentence = refused("train", tmp_path / "empty", *TRAIN)
    assert f"'{tmp_path / 'empty'}'" in sentence
    assert "no class folders" in sentence or "holds no" in sentence or "empty" in sentence


def test_one_class_only(refused: Refused, tmp_path: Path) -> None:
    data = write_classes(tmp_path / "one", 4, classes=("ant",))
    sentence = refused("train", data, *TRAIN)
    assert "ant" in sentence
    assert "class" in sentence


def test_empty_class_folder(refused: Refused, tmp_path: Path) -> None:
    data = write_splits(tmp_path / "data", train=4, val=2)
    (data / "train" / "dog").mkdir()
    sentence = refused("train", data, *TRAIN)
    assert "dog" in sentence
    assert "no image" in sentence or "empty" in sentence


def test_class_missing_in_train(refused: Refused, tmp_path: Path) -> None:
    data = write_splits(tmp_path / "data", train=4, val=2)
    write_image(data / "val" / "dog" / "0.png", 0)
    sentence = refused("train", data, *TRAIN)
    assert "dog" in sentence
    assert "val" in sentence


@pytest.mark.parametrize("kind", ["text", "truncated"])
def test_broken_image_is_named_and_may_be_skipped(
    run: Run, refused: Refused, tmp_path: Path, kind: str
) -> None:
    data = write_splits(tmp_path / "data", train=5, val=2)
    broken = data / "train" / "bee" / "broken.jpg"
    if kind == "text":
        broken.write_text("This is no picture.")
    else:
        _write_truncated(broken)
    sentence = refused("train", data, *TRAIN, "--workers", 2)
    assert f"image '{broken}' cannot be read: " in sentence
    assert "(--on-bad-image skip)" in sentence

    skipping = run("train", data, "--method", "linear", *QUICK, "--on-bad-image", "skip", "--out", "skipping")
    assert skipping.code == 0, skipping.err
    assert "broken.jpg" in (Path("skipping") / "split.json").read_text()


def _write_truncated(path: Path) -> None:
    import numpy as np
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, quality=95)
    path.write_bytes(path.read_bytes()[:1500])


def test_unknown_way_with_bad_images(refused: Refused, images: Path) -> None:
    assert "Did you mean 'skip'?" in refused("train", images, *TRAIN, "--on-bad-image", "skp")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("images/ant/0.png", ["train800.txt", "2", "label"]),
        ("images/ant/0.png two", ["train800.txt", "2", "'two'"]),
        ("images/ant/0.png 12", ["train800.txt", "2", "12"]),
        ("images/ant/0.png -1", ["train800.txt", "2", "-1"]),
        ("../../outside.png 0", ["train800.txt", "2", "outside"]),
        ("/etc/passwd 0", ["train800.txt", "2", "/etc/passwd"]),
        ("images/ant/none.png 0", ["train800.txt", "2", "none.png"]),
    ],
)
def test_vtab_lines(refused: Refused, tmp_path: Path, line: str, words: list[str]) -> None:
    data = write_vtab(tmp_path / "vtab")
    (data / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    lines = (data / "train800.txt").read_text().splitlines()
    (data / "train800.txt").write_text("\n".join([lines[0], line, *lines[2:]]) + "\n")
    sentence = refused("train", data, *TRAIN)
    for word in words:
        assert word in sentence


def test_train_split_of_another_kind_of_data(refused: Refused, images: Path) -> None:
    sentence = refused("train", images, *TRAIN, "--train-split", "train800val200")
    assert "has no VTAB-1k lists; use 'train'" in sentence


def test_csv_without_the_column(refused: Refused, tmp_path: Path) -> None:
    write_classes(tmp_path / "images", 4)
    table = tmp_path / "table.csv"
    rows = [f"images/{name}/{n}.png,{name}" for name in CLASSES for n in range(4)]
    table.write_text("\n".join(["file,species", *rows]) + "\n")
    assert "species" in refused("train", table, *TRAIN)
    sentence = refused("train", table, *TRAIN, "--image-column", "file", "--label-column", "specis")
    assert "specis" in sentence
    assert "'species'" in sentence


def test_column_of_data_that_are_no_table(refused: Refused, images: Path) -> None:
    sentence = refused("train", images, *TRAIN, "--label-column", "species")
    assert "is not a table; leave it out" in sentence


def test_batch_larger_than_the_data(refused: Refused, images: Path) -> None:
    sentence = refused("train", images, "--method", "linear", "--batch-size", 64, "--workers", 0)
    assert "64" in sentence
    assert "18" in sentence


@pytest.mark.parametrize("fraction", ["1", "-0.1", "nan"])
def test_val_fraction_out_of_range(refused: Refused, tmp_path: Path, fraction: str) -> None:
    data = write_classes(tmp_path / "data", 5)
    assert "val_fraction" in refused("train", data, *TRAIN, "--val-fraction", fraction)


def test_final_test_without_a_test_split(refused: Refused, tmp_path: Path) -> None:
    data = write_splits(tmp_path / "data", train=4, val=2)
    assert "has no test split" in refused("train", data, *TRAIN, "--final-test")


def test_evaluation_on_a_class_that_the_run_does_not_know(
    refused: Refused, finished: FinishedRun, tmp_path: Path
) -> None:
    data = write_classes(tmp_path / "other", 2, classes=("ant", "dog"))
    sentence = refused("evaluate", finished.directory, data, "--workers", 0)
    assert "dog" in sentence


def test_evaluation_on_a_split_that_is_not_there(
    refused: Refused, finished: FinishedRun, tmp_path: Path
) -> None:
    data = write_splits(tmp_path / "data", train=2)
    assert "has no labelled test split" in refused("evaluate", finished.directory, data, "--workers", 0)


def test_prediction_for_what_is_no_image(refused: Refused, finished: FinishedRun, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "note.txt").write_text("text")
    (tmp_path / "text.jpg").write_text("text")
    assert "empty" in refused("predict", finished.directory, tmp_path / "empty")
    assert "nowhere.png" in refused("predict", finished.directory, "nowhere.png")
    assert "note.txt" in refused("predict", finished.directory, tmp_path / "note.txt")
    assert "text.jpg" in refused("predict", finished.directory, tmp_path / "text.jpg")
