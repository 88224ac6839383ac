"""The class map: one list of names, made from the training images and checked on every other split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vitune.data.listing import Layout, Listing
from vitune.errors import DataError, did_you_mean

CLASSES_FILE = "classes.txt"
_LISTED_IN_ERRORS = 20


def read_classes_file(folder: Path) -> tuple[str, ...] | None:
    """Class names of `classes.txt`, one a line in the order of labels; None where there is no such file.

    Raises:
        DataError: If the file is empty, has an empty line or names a class twice.
    """
    path = folder / CLASSES_FILE
    if not path.is_file():
        return None
    try:
        names = path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"'{path}' is not UTF-8 text; save it as UTF-8.") from error
    names = [name.strip() for name in names]
    check_class_names(names, f"'{path}'")
    return tuple(names)


def check_class_names(names: Sequence[str], where: str) -> None:
    """Raise DataError unless there is at least one name and each is non-empty and unique."""
    if not names:
        raise DataError(f"{where} names no class; write one class name a line.")
    seen: dict[str, int] = {}
    for line, name in enumerate(names, 1):
        if not name:
            raise DataError(f"{where}, line {line} is empty; line n names the class of label n - 1.")
        if name in seen:
            raise DataError(f"{where} names the class '{name}' twice, on lines {seen[name]} and {line}.")
        seen[name] = line


def class_of_number(number: int, declared: tuple[str, ...] | None, where: str) -> str:
    """The class name of an integer label: the declared one, or the number itself where nothing is declared.

    Raises:
        DataError: If the label is negative or beyond the declared classes; `where` starts the sentence.
    """
    if number < 0 or (declared is not None and number >= len(declared)):
        allowed = f"0..{len(declared) - 1}" if declared is not None else "0, 1, 2, ..."
        raise DataError(
            f"{where}: label {number} is out of range; the labels of this data set are {allowed}."
        )
    return declared[number] if declared is not None else str(number)


def make_class_map(layout: Layout) -> tuple[str, ...]:
    """The class names in the order of their labels.

    Where the data declare their classes, those are the map, in that order and with those that have no
    training image, so that label numbers keep their meaning. Otherwise the map is the sorted classes of the
    training images (by value where all are integers).

    Raises:
        DataError: If there is one class only.
    """
    found = set(_used(layout.listings["train"]))
    if len(found) < 2:
        one = next(iter(found), "none")
        raise DataError(
            f"the training images of '{layout.path}' have one class only ('{one}'); two are needed."
        )
    if layout.declared is not None:
        return layout.declared
    if all(name.isdecimal() for name in found):
        return tuple(sorted(found, key=lambda name: (int(name), name)))
    return tuple(sorted(found))


def labels_of(listing: Listing, class_names: Sequence[str], split: str, owner: str) -> list[int]:
    """The label of every image of a listing.

    Args:
        listing: The images.
        class_names: The class map.
        split: Name of the split, for the error.
        owner: Whose classes they are, for the error ("the training images", "the given class map").

    Raises:
        DataError: If an image has a class that is not in the map; the message names the class and the image.
    """
    numbers = {name: number for number, name in enumerate(class_names)}
    for position in listing.positions:
        name = listing.classes[position]
        if name not in numbers:
            raise DataError(
                f"the {split} split has the class '{name}' ({listing.images.origin(position)}), "
                f"which is not among the classes of {owner}; rename or remove it, or train with it. "
                f"{_hint(name, class_names)}"
            )
    return [numbers[listing.classes[position]] for position in listing.positions]


def _hint(name: str, class_names: Sequence[str]) -> str:
    hint = did_you_mean(name, class_names)
    many = hint.startswith("Known:") and len(class_names) > _LISTED_IN_ERRORS
    return f"There are {len(class_names)} other classes." if many else hint


def _used(listing: Listing) -> list[str]:
    return [listing.classes[position] for position in listing.positions]
