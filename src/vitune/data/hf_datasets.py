"""Data sets of Hugging Face `datasets`, map style: objects, or folders that `save_to_disk` wrote."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from vitune._extras import require
from vitune.data.classes import check_class_names, class_of_number
from vitune.data.columns import IMAGE_COLUMNS, LABEL_COLUMNS, pick_column
from vitune.data.images import decode_image, image_size
from vitune.data.listing import Layout, Listing
from vitune.data.split_names import KNOWN_SPLITS, split_of_word
from vitune.errors import DataError

_UNLABELLED = -1  # the label of a test split whose labels are withheld


def is_saved_dataset(folder: Path) -> bool:
    """Whether `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote a folder."""
    one = (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()
    return one or (folder / "dataset_dict.json").is_file()


def read_saved_dataset(folder: Path, image_column: str | None, label_column: str | None) -> Layout:
    """Read a folder that `save_to_disk` wrote; the images stay in its files.

    Args:
        folder: The folder.
        image_column: As for `read_dataset`.
        label_column: As for `read_dataset`.

    Raises:
        ConfigError: If the package `datasets` is not installed.
        DataError: If the folder is damaged, or as `read_dataset`.
    """
    datasets = require("datasets", "datasets", "Reading what save_to_disk wrote")
    try:
        data = datasets.load_from_disk(str(folder))
    except Exception as error:  # whatever Arrow, JSON or the disk has to say
        raise DataError(f"'{folder}' cannot be read: {str(error).rstrip('.')}; save it again.") from error
    return read_dataset(data, image_column, label_column, path=folder)


def read_dataset(
    data: Any, image_column: str | None, label_column: str | None, *, path: Path | None = None
) -> Layout:
    """List a `datasets.Dataset`, or a `DatasetDict` whose keys name the splits.

    Args:
        data: The object; neither changed nor decoded.
        image_column: Column of images, or None for the first usual name.
        label_column: Column of labels, or None for the first usual name.
        path: Where it was read from.

    Raises:
        ConfigError: If the package `datasets` is not installed.
        DataError: If it is another kind of object, a key names no split, or a column is missing or cannot be used.
    """
    datasets = require("datasets", "datasets", "Reading a Dataset object")
    if isinstance(data, datasets.Dataset):
        splits: dict[str, Any] = {"all": data}
    elif isinstance(data, Mapping) and data and all(isinstance(d, datasets.Dataset) for d in data.values()):
        splits = _by_split(data)
    else:
        kind = type(data).__name__
        stream = (
            " is read as a stream, but training needs images by position: load it without streaming=True, or"
        )
        hint = stream if kind.startswith("Iterable") else " is no data set; give a path, or"
        raise DataError(f"the given {kind}{hint} give a datasets.Dataset or DatasetDict.")
    listings, unlabelled, declared = {}, [], None
    for split, part in splits.items():
        where = f"{'the given data set' if path is None else repr(str(path))}{'' if split == 'all' else f', {split}'}"
        image = pick_column(part.column_names, image_column, IMAGE_COLUMNS, "images", "image_column", where)
        label = pick_column(part.column_names, label_column, LABEL_COLUMNS, "labels", "label_column", where)
        if not isinstance(part.features[image], datasets.Image):
            raise DataError(
                f"{where}: column '{image}' holds {part.features[image]!r}, not images; "
                f"cast_column('{image}', datasets.Image()) says that it does."
            )
        names = getattr(part.features[label], "names", None)
        if names is not None:
            check_class_names(names, f"the ClassLabel of {where}")
            declared = declared or tuple(names)
        plain = part.with_format(None)  # without the user's transforms
        labels = list(plain[label])
        if split == "test" and labels and all(value == _UNLABELLED for value in labels):
            unlabelled.append(split)
            continue
        classes = [_class_of(value, names, f"{where}, row {row}") for row, value in enumerate(labels, 1)]
        undecoded = plain.select_columns([image]).cast_column(image, datasets.Image(decode=False))
        listings[split] = Listing.all_of(DatasetImages(undecoded, image, where), classes)
    rule: dict[str, Any] = {
        "rule": "no split in the data" if "all" in splits else "splits of the DatasetDict"
    }
    rule |= {"fingerprints": {split: part._fingerprint for split, part in splits.items()}}
    rule |= {"unlabelled": unlabelled} if unlabelled else {}
    return Layout("hf-datasets", path or Path(type(data).__name__), listings, declared, rule)


class DatasetImages:
    """The images of one split.

    Args:
        data: A `datasets.Dataset` with images that are not decoded.
        column: Their column.
        where: What to call the data in messages.
    """

    def __init__(self, data: Any, column: str, where: str) -> None:
        self._data, self._column, self._where = data, column, where

    def __len__(self) -> int:
        return len(self._data)

    def image(self, position: int) -> Image.Image:
        """Decode one image to RGB."""
        return decode_image(self._encoded(position), name=self.name(position))

    def size(self, position: int) -> tuple[int, int]:
        """Stored width and height, from the header."""
        return image_size(io.BytesIO(self._encoded(position)), name=self.name(position))

    def name(self, position: int) -> str:
        """The row, counted from 1."""
        return f"row {position + 1}"

    def origin(self, position: int) -> str:
        """The data and the row, counted from 1."""
        return f"{self._where}, row {position + 1}"

    def _encoded(self, position: int) -> bytes:
        value = self._data[position][self._column] or {}
        if value.get("bytes"):
            return value["bytes"]
        if not value.get("path"):
            raise DataError(f"image '{self.name(position)}' of {self._where} is empty; remove the row.")
        try:
            return Path(value["path"]).read_bytes()
        except OSError as error:
            raise DataError(
                f"{self.origin(position)}: '{value['path']}' cannot be read: {error.strerror}."
            ) from error


def _by_split(data: Mapping[str, Any]) -> dict[str, Any]:
    splits: dict[str, Any] = {}
    for key, part in data.items():
        split = split_of_word(str(key))
        if split is None or split in splits:
            what = "names no split" if split is None else f"is a second {split} split"
            raise DataError(
                f"the key '{key}' of the DatasetDict {what}; its keys are {', '.join(map(str, data))}, and one each of "
                f"{', '.join(KNOWN_SPLITS)} can be read."
            )
        splits[split] = part
    return splits


def _class_of(value: Any, names: list[str] | None, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise DataError(f"{where}: label {value!r} is neither an integer nor text; correct it.")
    return (
        value
        if isinstance(value, str)
        else class_of_number(value, None if names is None else tuple(names), where)
    )
