"""Folders of class folders, with or without train / val / test folders above them."""

from __future__ import annotations

import os
from pathlib import Path

from vitune.data.images import walk_images
from vitune.data.listing import FileImages, Layout, Listing
from vitune.data.split_names import split_of_word
from vitune.errors import DataError


def has_split_folders(folder: Path) -> bool:
    """Whether the folders below `folder` are splits rather than classes.

    They are if one that is named as a split itself holds folders, or if all are named so. A folder `train` of
    images alone, beside `bus` and `car`, is a class.
    """
    folders = visible_folders(folder)
    named = [name for name in folders if split_of_word(name)]
    return any(visible_folders(folder / name) for name in named) or (bool(named) and named == folders)


def visible_folders(folder: Path) -> list[str]:
    """Sorted names of the folders right below `folder`, without hidden ones and what macOS puts in zips."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.is_dir()]
    return sorted(name for name in names if not name.startswith((".", "__MACOSX")))


def read_split_folders(folder: Path) -> Layout:
    """Read train / val / test folders of class folders.

    Raises:
        DataError: If two folders name the same split, or one of them is not a folder of class folders.
    """
    splits: dict[str, str] = {}
    ignored = []
    for name in visible_folders(folder):
        split = split_of_word(name)
        if split is None:
            ignored.append(name)
        elif split in splits:
            raise DataError(
                f"'{folder}' has two folders for the {split} split, '{splits[split]}' and '{name}'; keep one."
            )
        else:
            splits[split] = name
    listings = {split: _list_class_folders(folder, name) for split, name in splits.items()}
    rule = {"rule": "folders", "folders": splits, "ignored_folders": ignored}
    return Layout("folder", folder, listings, rule=rule)


def read_class_folders(folder: Path) -> Layout:
    """Read one folder of class folders.

    Raises:
        DataError: If there is no class folder, or one holds no image.
    """
    return Layout("folder", folder, {"all": _list_class_folders(folder, "")})


def _list_class_folders(root: Path, below: str) -> Listing:
    folder = root / below
    class_folders = visible_folders(folder)
    if not class_folders:
        held = "images but no folders" if walk_images(folder) else "neither folders nor images"
        raise DataError(f"'{folder}' holds {held}; expected one folder of images for each class.")
    names: list[str] = []
    classes: list[str] = []
    for class_folder in class_folders:
        inside = walk_images(folder / class_folder)
        if not inside:
            raise DataError(f"class folder '{folder / class_folder}' holds no image; fill it or remove it.")
        names += [(Path(below) / class_folder / name).as_posix() for name in inside]
        classes += [class_folder] * len(inside)
    return Listing.all_of(FileImages(root, names), classes)


def missing(folder: Path, *, classes: int | None = None) -> list[str]:
    """What a folder of split folders lacks to be trained on and tested, one sentence each.

    Args:
        folder: The folder of `train/`, `test/` and perhaps `val/`.
        classes: How many classes the training images must have.
    """
    if not folder.is_dir():
        return [f"there is no folder '{folder}'; it holds train/CLASS/*.jpg and test/CLASS/*.jpg."]
    there = {split_of_word(name) for name in visible_folders(folder)}
    gone = [split for split in ("train", "test") if split not in there]
    if gone:
        return [f"'{folder}' has no folder '{split}' of class folders." for split in gone]
    try:
        layout = read_split_folders(folder)
    except DataError as error:
        return [str(error)]
    found = len(set(layout.listings["train"].classes))
    if classes is not None and found != classes:
        return [f"the training images of '{folder}' have {found} classes, expected {classes}."]
    return []
