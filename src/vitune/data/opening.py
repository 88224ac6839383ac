"""Opening a data set of any kind that vitune reads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from vitune.data.cifar_binary import cifar_version, read_cifar
from vitune.data.classes import check_class_names
from vitune.data.corruptions import parts_of, read_corruptions
from vitune.data.domains import domain_of, read_domains
from vitune.data.few_shot import (
    check_shots,
    is_few_shot_folder,
    published,
    read_few_shot_folder,
    take_shots,
)
from vitune.data.folder import has_split_folders, read_class_folders, read_split_folders, visible_folders
from vitune.data.hf_datasets import is_saved_dataset, read_dataset, read_saved_dataset
from vitune.data.imagenet import renamed
from vitune.data.json_lists import is_json_folder, read_json_folder
from vitune.data.listing import Layout
from vitune.data.parquet import parquet_shards, read_parquet
from vitune.data.samples import Samples
from vitune.data.source import OnBadImage, Source
from vitune.data.stratified import check_val_fraction, hold_out
from vitune.data.table import CSV_SUFFIXES, read_csv
from vitune.data.vtab import is_vtab_folder, read_vtab_folder
from vitune.data.webdataset import is_packed_tar, read_webdataset, tar_shards
from vitune.errors import ConfigError, DataError, did_you_mean

TrainSplit = Literal["train", "train800", "train800val200"]
TRAIN_SPLITS = ("train", "train800", "train800val200")


@dataclass(frozen=True)
class _Reading:
    """Which part of the data is asked for; the fields are those arguments of `open_source`."""

    train_split: str
    image_column: str | None
    label_column: str | None
    shots: int | None
    shot_seed: int
    test_domain: str | None
    train_domains: Sequence[str] | None


def open_source(
    path: str | os.PathLike[str] | Any,
    *,
    train_split: TrainSplit = "train",
    val_fraction: float = 0.2,
    seed: int = 0,
    image_column: str | None = None,
    label_column: str | None = None,
    on_bad_image: OnBadImage = "error",
    shots: int | None = None,
    shot_seed: int = 0,
    test_domain: str | None = None,
    train_domains: Sequence[str] | None = None,
) -> Source:
    """Open a data set to train on.

    What is read, by what lies at `path`:

    - VTAB-1k lists (`train800.txt`, `val200.txt`, `train800val200.txt`, `test.txt`, optional `classes.txt`);
    - few-shot lists (`annotations/train_meta.list.num_shot_K.seed_S` and others, see `vitune.data.few_shot`);
    - JSON splits of fine-grained sets (`train.json`, `val.json`, `test.json`, see `vitune.data.json_lists`);
    - CIFAR-100 and CIFAR-10 in their binary version;
    - Parquet with encoded images, as Hugging Face `datasets` writes it: one file, or a folder of shards whose
      names start with their split;
    - a map-style data set of Hugging Face `datasets`: a folder that `save_to_disk` wrote, or the object itself;
    - WebDataset shards, plain tars of `KEY.jpg` and `KEY.cls` or `KEY.json`: one file, or a folder of shards whose
      names start with their split;
    - a CSV, TSV or Parquet table of image paths and labels, with an optional column `split`;
    - `train/`, optional `val/` (or `valid/`, `validation/`) and `test/` folders of class folders;
    - one folder of class folders;
    - with `test_domain`, domains of class folders (`DOMAIN/CLASS/*.jpg`);
    - to test on alone: ImageNet-C (`CORRUPTION/SEVERITY/CLASS/*.JPEG`).

    Where no validation split is given, one is held out from the training images by a seeded stratified rule.

    Args:
        path: Folder or file, or a `datasets.Dataset` or `DatasetDict`.
        train_split: "train": what the data call so (`train800` for VTAB-1k lists). "train800" and
            "train800val200" are for VTAB-1k lists; with the latter there is no validation split.
        val_fraction: Share of each class to hold out where no validation split is given; 0 holds out nothing.
        seed: Seed of that choice.
        image_column: Column of a table's paths or encoded images, or extension of a shard's images; None tries the
            usual names.
        label_column: Column of a table's labels, or of a shard's their extension or JSON field; None tries the usual
            names.
        on_bad_image: "error": a broken image is an error when it is read. "skip": broken images are found by
            decoding all of train and val now, left out and recorded; those of test when it is opened.
        shots: Train on so many images of each class; drawn before validation images are held out, or read from
            few-shot lists where the data have them.
        shot_seed: Seed of the draw, or of the list.
        test_domain: The domain that is tested on, where the folders of `path` are domains; the others are trained on,
            and validation images are held out of each.
        train_domains: The domains that are trained on; None is all others.

    Raises:
        ConfigError: If a setting is unknown, out of range or does not apply to this kind of data.
        DataError: If the data cannot be used; the message names the file, folder, line or class.
    """
    reading = _Reading(train_split, image_column, label_column, shots, shot_seed, test_domain, train_domains)
    layout = _training_layout(path, reading, val_fraction, seed)
    return Source(layout, on_bad_image=on_bad_image)


def open_samples(
    path: str | os.PathLike[str] | Any,
    class_names: Sequence[str],
    split: Literal["train", "val", "test"] = "test",
    *,
    train_split: TrainSplit = "train",
    val_fraction: float = 0.2,
    seed: int = 0,
    image_column: str | None = None,
    label_column: str | None = None,
    on_bad_image: OnBadImage = "error",
    shots: int | None = None,
    shot_seed: int = 0,
    test_domain: str | None = None,
    train_domains: Sequence[str] | None = None,
) -> Samples:
    """Open one split to evaluate a trained model on, with the labels of that model's class map.

    Data without splits, such as a folder of class folders or a single Parquet file, are the test split as a
    whole. For "train" and "val" the data are split as `open_source` splits them, so give the settings of the
    run. Where the model's classes are ImageNet's, data that name them by WordNet id or number are understood.

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
        shots: As for `open_source`.
        shot_seed: As for `open_source`.
        test_domain: As for `open_source`.
        train_domains: As for `open_source`.

    Raises:
        ConfigError: If a setting is unknown, out of range or does not apply to this kind of data.
        DataError: If the data have no such split, or a class in it is not among `class_names`.
    """
    if split not in ("train", "val", "test"):
        raise ConfigError(f"there is no split '{split}'; use 'train', 'val' or 'test'.")
    check_class_names(class_names, "the given class map")
    reading = _Reading(train_split, image_column, label_column, shots, shot_seed, test_domain, train_domains)
    if split == "test":
        layout = _read(path, replace(reading, shots=None))
        listing = layout.listings.get("all") or layout.listings.get("test")
    else:
        layout = _training_layout(path, reading, val_fraction, seed)
        listing = layout.listings.get(split)
    if listing is None:
        raise DataError(
            f"'{layout.path}' has no labelled {split} split; its splits are {', '.join(layout.listings)}."
        )
    listing = renamed(listing, class_names)
    source = Source(
        replace(layout, listings={split: listing}), on_bad_image=on_bad_image, class_names=class_names
    )
    samples = source.open_test("evaluate") if split == "test" else source.split(split)
    assert samples is not None  # its listing was given above
    return samples


def _training_layout(path: Any, reading: _Reading, val_fraction: float, seed: int) -> Layout:
    check_val_fraction(val_fraction)
    check_shots(reading.shots, reading.shot_seed)
    layout = _read(path, reading)
    if layout.kind == "few-shot" and reading.shots is None and published(layout.path):
        there = sorted({count for count, _ in published(layout.path)})
        raise ConfigError(
            f"'{layout.path}' has few-shot lists; say how many shots: {', '.join(map(str, there))}."
        )
    if "all" in layout.listings:
        layout = replace(layout, listings={"train": layout.listings["all"]})
    if "train" not in layout.listings:
        there = ", ".join(layout.listings)
        raise DataError(
            f"'{layout.path}' has no training split, only {there}; add it, or evaluate on these data instead."
        )
    if reading.shots is not None and layout.kind != "few-shot":
        layout = take_shots(layout, reading.shots, reading.shot_seed)
    if "val" in layout.listings or reading.train_split == "train800val200":
        return layout
    if layout.kind == "domains":  # as in DomainBed, a part of each training domain
        return hold_out(layout, val_fraction, seed, part_of=domain_of)
    return hold_out(layout, val_fraction, seed)


def _read(data: Any, reading: _Reading) -> Layout:
    train_split, columns = reading.train_split, (reading.image_column, reading.label_column)
    if train_split not in TRAIN_SPLITS:
        raise ConfigError(f"train_split is '{train_split}'. {did_you_mean(str(train_split), TRAIN_SPLITS)}")
    if not isinstance(data, (str, os.PathLike)):
        if train_split != "train":
            raise ConfigError(
                f"train_split is '{train_split}', but a data set object has no VTAB-1k lists; use 'train'."
            )
        _refuse_domains(reading, "a data set object")
        return read_dataset(data, *columns)
    path = Path(data)
    if not path.exists():
        raise DataError(f"the data '{path}' do not exist; give a folder of images, a list folder or a table.")
    shards = _parquet_files(path)
    saved, tars = is_saved_dataset(path), tar_shards(path)
    is_table = bool(shards or tars) or saved or path.suffix.lower() in CSV_SUFFIXES
    for option, column in zip(("image_column", "label_column"), columns, strict=True):
        if column is not None and not is_table:
            raise ConfigError(f"{option} is '{column}', but '{path}' is not a table; leave it out.")
    if path.is_dir() and is_vtab_folder(path):
        _refuse_domains(reading, f"'{path}'")
        return read_vtab_folder(path, "train800" if train_split == "train" else train_split)
    if train_split != "train":
        raise ConfigError(f"train_split is '{train_split}', but '{path}' has no VTAB-1k lists; use 'train'.")
    if is_table or not path.is_dir():
        _refuse_domains(reading, f"'{path}'")
    if saved:
        return read_saved_dataset(path, *columns)
    if shards:
        return read_parquet(path, shards, *columns)
    if tars:
        return read_webdataset(path, tars, *columns)
    if is_table:
        return read_csv(path, *columns)
    if path.is_dir():
        return _read_folder(path, reading)
    if is_packed_tar(path):
        raise DataError(
            f"'{path}' is compressed, so its images cannot be read by position; unpack it to a plain .tar."
        )
    known = ", ".join([*CSV_SUFFIXES, ".parquet", ".tar"])
    raise DataError(f"'{path}' is no kind of data that can be read; give a folder, or a file of {known}.")


def _refuse_domains(reading: _Reading, what: str) -> None:
    for name in ("test_domain", "train_domains"):
        value = getattr(reading, name)
        if value is not None:
            shown = value if isinstance(value, str) else "+".join(value)
            raise ConfigError(f"{name} is '{shown}', but {what} is no folder of domains; leave it out.")


def _parquet_files(path: Path) -> list[Path]:
    if path.is_dir():
        return [] if is_vtab_folder(path) else parquet_shards(path)
    return [path] if path.suffix.lower() == ".parquet" else []


def _read_folder(path: Path, reading: _Reading) -> Layout:
    if is_few_shot_folder(path):
        _refuse_domains(reading, f"'{path}'")
        return read_few_shot_folder(path, reading.shots, reading.shot_seed)
    if reading.test_domain is not None:
        return read_domains(path, reading.test_domain, reading.train_domains)
    if reading.train_domains is not None:
        raise ConfigError("train_domains are given without a domain to test on; give test_domain too.")
    version = cifar_version(path)
    if version is not None:
        return read_cifar(path, version)
    if is_json_folder(path):
        return read_json_folder(path)
    if parts_of(path):
        return read_corruptions(path)
    folders = visible_folders(path)
    tables = sorted(file.name for file in path.iterdir() if file.suffix.lower() in CSV_SUFFIXES)
    if not folders and tables:
        raise DataError(f"'{path}' holds no class folders but tables; give the table: {', '.join(tables)}.")
    return read_split_folders(path) if has_split_folders(path) else read_class_folders(path)
