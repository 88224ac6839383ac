"""Splits as JSON objects: `train.json`, `val.json` and `test.json` of image path to class number.

The fine-grained sets (CUB-200-2011, NABirds, Oxford Flowers, Stanford Dogs, Stanford Cars) as VPT distributes their
splits (KMnP/vpt @ 4410440, `src/data/datasets/json_dataset.py`): one object a file, class numbers of any base and with
gaps, image paths below a folder that depends on the set.
"""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any

from vitune.data.images import is_image_name
from vitune.data.listing import FileImages, Layout, Listing
from vitune.errors import DataError

SPLITS = ("train", "val", "test")
# Where the images of a set may lie: Cars and Flowers; CUB and NABirds; Dogs.
_ROOTS = ("", "images", "Images")


def is_json_folder(folder: Path) -> bool:
    """Whether a split of image paths and numbers lies in this folder (COCO's annotations are objects of lists)."""
    return any(_is_split(folder / f"{split}.json") for split in SPLITS)


def read_json_folder(folder: Path) -> Layout:
    """Read the splits that are there.

    Classes are called by the folder of their images where each has a folder of its own (CUB, NABirds, Dogs), else by
    their number. Their order is that of the numbers, as in VPT.

    Args:
        folder: The folder of the JSON files.

    Raises:
        DataError: If a file is malformed, or lists an image that is not there.
    """
    found = {split: _entries(folder / f"{split}.json") for split in SPLITS if _is_file(folder, split)}
    root = _image_root(folder, next(iter(found.values())))
    names = _class_names(found)
    listings = {
        split: _listing(folder / f"{split}.json", root, entries, names) for split, entries in found.items()
    }
    rule = {"rule": "lists", "lists": {split: f"{split}.json" for split in found}}
    return Layout("json-lists", folder, listings, tuple(names[number] for number in sorted(names)), rule)


def missing(folder: Path, *, classes: int | None = None) -> list[str]:
    """What a folder of JSON splits lacks, one sentence each.

    Args:
        folder: The folder.
        classes: How many classes the training images must have.
    """
    if not folder.is_dir():
        return [f"there is no folder '{folder}'; it holds train.json, val.json, test.json and the images."]
    lacks = [
        f"'{folder / f'{split}.json'}' is missing: the {split} split of VPT, an object of image path to class number."
        for split in SPLITS
        if not _is_file(folder, split)
    ]
    there = [split for split in SPLITS if _is_file(folder, split)]
    if not there:
        return lacks
    try:
        layout = read_json_folder(folder)
    except DataError as error:
        return [*lacks, str(error)]
    used = set(layout.listings["train"].classes) if "train" in there else set()
    if classes is not None and used and len(used) != classes:
        lacks.append(f"'{folder / 'train.json'}' has {len(used)} classes, expected {classes}.")
    return lacks


def _is_file(folder: Path, split: str) -> bool:
    return (folder / f"{split}.json").is_file()


def _is_split(path: Path) -> bool:
    """Whether a file begins like a split; what is wrong further on, its reader says."""
    if not path.is_file():
        return False
    try:
        values = _parse(path)
    except DataError:
        return path.name == "train.json"  # its reader says what is wrong
    if not isinstance(values, dict) or not values:
        return False
    name, number = next(iter(values.items()))
    return is_image_name(PurePosixPath(name).name) and not isinstance(number, dict | list)


def _parse(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(
            f"'{path}' is no JSON file ({error}); it is an object of image path to class number."
        ) from None


def _entries(path: Path) -> dict[str, int]:
    values = _parse(path)
    if not isinstance(values, dict) or not values:
        raise DataError(f"'{path}' lists no image; it is an object of image path to class number.")
    for name, number in values.items():
        if not isinstance(number, int) or isinstance(number, bool) or number < 0:
            raise DataError(
                f"'{path}': the image '{name}' has the class {number!r}; classes are whole numbers from 0."
            )
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name.replace("\\", "/")).parts:
            raise DataError(
                f"'{path}' points outside the folder: '{name}'; paths are relative to the images."
            )
    return values


def _image_root(folder: Path, entries: dict[str, int]) -> Path:
    first = next(iter(entries))
    for root in _ROOTS:
        if (folder / root / first).is_file():
            return folder / root
    looked = ", ".join(f"'{root}/'" for root in _ROOTS if root)
    raise DataError(
        f"there is no image '{first}' in '{folder}', nor in its folders {looked}; put the images there."
    )


def _class_names(found: dict[str, dict[str, int]]) -> dict[int, str]:
    """Class number to name."""
    pairs = {(number, PurePosixPath(name).parent.name) for e in found.values() for name, number in e.items()}
    numbers = {number for number, _ in pairs}
    parents = {parent for _, parent in pairs}
    if len(pairs) == len(numbers) == len(parents) and "" not in parents:
        return dict(pairs)
    return {number: str(number) for number in numbers}


def _listing(path: Path, root: Path, entries: dict[str, int], names: dict[int, str]) -> Listing:
    lines = range(1, len(entries) + 1)
    images = FileImages(root, list(entries), listed_in=f"'{path}'", lines=lines, line_word="entry")
    images.check_files()
    return Listing.all_of(images, [names[number] for number in entries.values()])
