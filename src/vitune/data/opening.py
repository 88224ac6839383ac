"""Opening a data set of any kind that vitune reads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from vitune.data.classes import check_class_names
from vitune.data.folder import has_split_folders, read_class_folders, read_split_folders, visible_folders
from vitune.data.listing import Layout
from vitune.data.parquet import parquet_shards, read_parquet
from vitune.data.samples import Samples
from vitune.data.source import OnBadImage, Source
from vitune.data.stratified import check_val_fraction, hold_out
from vitune.data.table import CSV_SUFFIXES, read_csv
from vitune.data.vtab import is_vtab_folder, read_vtab_folder
from vitune.errors import ConfigError, DataError, did_you_mean

TrainSplit = Literal["train", "train800", "train800val200"]
TRAIN_SPLITS = ("train", "train800", "train800val200")


def open_source(
    path: str | os.PathLike[str],
    *,
    train_split: TrainSplit = "train",
    val_fraction: float = 0.2,
    seed: int = 0,
    image_column: str | None = None,
    label_column: str | None = None,
    on_bad_image: OnBadImage = "error",
) -> Source:
    """Open a data set to train on.

    What is read, by what lies at `path`:

    - VTAB-1k lists (`train800.txt`, `val200.txt`, `train800val200.txt`, `test.txt`, optional `classes.txt`);
    - Parquet with encoded images, as Hugging Face `datasets` writes it: one file, or a folder of shards whose
      names start with their split;
    - a CSV, TSV or Parquet table of image paths and labels, with an optional column `split`;
    - `train/`, optional `val/` (or `valid/`, `validation/`) and `test/` folders of class folders;
    - one folder of class folders.

    Where no validation split is given, one is held out from the training images by a seeded stratified rule.

    Args:
        path: Folder or file.
        train_split: "train": what the data call so (`train800` for VTAB-1k lists). "train800" and
            "train800val200" are for VTAB-1k lists; with the latter there is no validation split.
        val_fraction: Share of each class to hold out where no validation split is given; 0 holds out nothing.
        seed: Seed of that choice.
        image_column: Column of a table's paths or encoded images; None tries the usual names.
        label_column: Column of a table's labels; None tries the usual names.
        on_bad_image: "error": a broken image is an error when it is read. "skip": broken images are found by
            decoding all of train and val now, left out and recorded; those of test when it is opened.

    Raises:
        ConfigError: If a setting is unknown, out of range or does not apply to this kind of data.
        DataError: If the data cannot be used; the message names the file, folder, line or class.
    """
    layout = _training_layout(Path(path), train_split, val_fraction, seed, image_column, label_column)
    return Source(layout, on_bad_image=on_bad_image)


def open_samples(
    path: str | os.PathLike[str],
    class_names: Sequence[str],
    split: Literal["train", "val", "test"] = "test",
    *,
    train_split: TrainSplit = "train",
    val_fraction: float = 0.2,
    seed: int = 0,
    image_column: str | None = None,
    label_column: str | None = None,
    on_bad_image: OnBadImage = "error",
) -> Samples:
    """Open one split to evaluate a trained model on, with the labels of that model's class map.

    Data without splits, such as a folder of class folders or a single Parquet file, are the test split as a
    whole. For "train" and "val" the data are split as `open_source` splits them, so give the settings of the
    run.

    Args:
        path: Folder or file, as for `open_source`; a training split is not needed for "test".
        class_names: Names in the order of their labels, as the adapter stores them.
        split: Which split.
        train_split: As for `open_source`.
        val_fraction: As for `open_source`.
        seed: As for `open_source`.
        image_column: As for `open_source`.
        label_column: As for `open_source`.
        on_bad_image: "error" as for `open_source`; with "skip", `Samples.skipped` names what was left out.

    Raises:
        ConfigError: If a setting is unknown, out of range or does not apply to this kind of data.
        DataError: If the data have no such split, or a class in it is not among `class_names`.
    """
    if split not in ("train", "val", "test"):
        raise ConfigError(f"there is no split '{split}'; use 'train', 'val' or 'test'.")
    check_class_names(class_names, "the given class map")
    if split == "test":
        layout = _read(Path(path), train_split, image_column, label_column)
        listing = layout.listings.get("all") or layout.listings.get("test")
    else:
        layout = _training_layout(Path(path), train_split, val_fraction, seed, image_column, label_column)
        listing = layout.listings.get(split)
    if listing is None:
        raise DataError(
            f"'{path}' has no labelled {split} split; its splits are {', '.join(layout.listings)}."
        )
    source = Source(
        replace(layout, listings={split: listing}), on_bad_image=on_bad_image, class_names=class_names
    )
    samples = source.open_test("evaluate") if split == "test" else source.split(split)
    assert samples is not None  # its listing was given above
    return samples


def _training_layout(
    path: Path,
    train_split: str,
    val_fraction: float,
    seed: int,
    image_column: str | None,
    label_column: str | None,
) -> Layout:
    check_val_fraction(val_fraction)
    layout = _read(path, train_split, image_column, label_column)
    if "all" in layout.listings:
        layout = replace(layout, listings={"train": layout.listings["all"]})
    if "train" not in layout.listings:
        there = ", ".join(layout.listings)
        raise DataError(
            f"'{path}' has no training split, only {there}; add it, or evaluate on these data instead."
        )
    if "val" in layout.listings or train_split == "train800val200":
        return layout
    return hold_out(layout, val_fraction, seed)


def _read(path: Path, train_split: str, image_column: str | None, label_column: str | None) -> Layout:
    if train_split not in TRAIN_SPLITS:
        raise ConfigError(f"train_split is '{train_split}'. {did_you_mean(str(train_split), TRAIN_SPLITS)}")
    if not path.exists():
        raise DataError(f"the data '{path}' do not exist; give a folder of images, a list folder or a table.")
    shards = _parquet_files(path)
    is_table = bool(shards) or path.suffix.lower() in CSV_SUFFIXES
    for option, column in (("image_column", image_column), ("label_column", label_column)):
        if column is not None and not is_table:
            raise ConfigError(f"{option} is '{column}', but '{path}' is not a table; leave it out.")
    if path.is_dir() and is_vtab_folder(path):
        return read_vtab_folder(path, "train800" if train_split == "train" else train_split)
    if train_split != "train":
        raise ConfigError(f"train_split is '{train_split}', but '{path}' has no VTAB-1k lists; use 'train'.")
    if shards:
        return read_parquet(path, shards, image_column, label_column)
    if is_table:
        return read_csv(path, image_column, label_column)
    if not path.is_dir():
        known = ", ".join([*CSV_SUFFIXES, ".parquet"])
        raise DataError(f"'{path}' is no kind of data that can be read; give a folder, or a file of {known}.")
    return _read_folder(path)


def _parquet_files(path: Path) -> list[Path]:
    if path.is_dir():
        return [] if is_vtab_folder(path) else parquet_shards(path)
    return [path] if path.suffix.lower() == ".parquet" else []


def _read_folder(path: Path) -> Layout:
    folders = visible_folders(path)
    tables = sorted(file.name for file in path.iterdir() if file.suffix.lower() in CSV_SUFFIXES)
    if not folders and tables:
        raise DataError(f"'{path}' holds no class folders but tables; give the table: {', '.join(tables)}.")
    return read_split_folders(path) if has_split_folders(path) else read_class_folders(path)
