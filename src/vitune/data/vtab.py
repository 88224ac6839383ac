"""The VTAB-1k layout: `train800.txt`, `val200.txt`, `train800val200.txt`, `test.txt` of `PATH LABEL`."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from vitune.data.classes import class_of_number, read_classes_file
from vitune.data.listing import FileImages, Layout, Listing
from vitune.errors import DataError

LISTS = {
    "train800": {"train": "train800.txt", "val": "val200.txt"},
    "train800val200": {"train": "train800val200.txt"},
}
_TEST = "test.txt"


def is_vtab_folder(folder: Path) -> bool:
    """Whether a training list of VTAB-1k lies in this folder."""
    return any((folder / lists["train"]).is_file() for lists in LISTS.values())


def read_vtab_folder(folder: Path, train_split: str) -> Layout:
    """Read the lists of a VTAB-1k folder.

    Args:
        folder: The folder of the lists; image paths are relative to it.
        train_split: "train800" (with `val200.txt` to select on) or "train800val200" (nothing to select on).

    Raises:
        DataError: If a list is missing, empty or has a line that is not an image inside the folder and a
            label in range.
    """
    declared = read_classes_file(folder)
    files = dict(LISTS[train_split])
    if (folder / _TEST).is_file():
        files["test"] = _TEST
    listings = {split: read_list(folder / name, folder, declared) for split, name in files.items()}
    return Layout("vtab", folder, listings, declared, {"rule": "lists", "lists": files})


def read_list(path: Path, root: Path, declared: tuple[str, ...] | None) -> Listing:
    """Read a list of lines `PATH LABEL`, split at the last space.

    Args:
        path: The list.
        root: What its paths are relative to.
        declared: Class names in the order of labels, where the data state them.

    Raises:
        DataError: As `read_vtab_folder`.
    """
    if not path.is_file():
        there = ", ".join(sorted(found.name for found in path.parent.glob("*.txt")))
        raise DataError(f"'{path.parent}' has no '{path.name}'; the lists there are: {there}.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"'{path}' is not UTF-8 text; save it as UTF-8.") from error
    names: list[str] = []
    classes: list[str] = []
    lines: list[int] = []
    for line, content in enumerate(text.splitlines(), 1):
        if content.strip():
            name, number = _parse(content, f"'{path}', line {line}")
            names.append(name)
            classes.append(class_of_number(number, declared, f"'{path}', line {line}"))
            lines.append(line)
    if not names:
        raise DataError(f"'{path}' lists no image; write lines such as 'images/000000.jpg 0'.")
    images = FileImages(root, names, listed_in=f"'{path}'", lines=lines)
    images.check_files()
    return Listing.all_of(images, classes)


def _parse(content: str, where: str) -> tuple[str, int]:
    name, *rest = content.rsplit(maxsplit=1)  # the path may hold spaces
    if not rest:
        raise DataError(f"{where} has no label: '{content.strip()}'; write 'PATH LABEL'.")
    name, label = name.strip(), rest[0]
    try:
        number = int(label)
    except ValueError:
        raise DataError(
            f"{where} has the label '{label}', which is not an integer; write 'PATH LABEL'."
        ) from None
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if PurePosixPath(name).is_absolute() or ".." in parts or Path(name).is_absolute():
        raise DataError(
            f"{where} points outside the folder: '{name}'; paths are relative to the list's folder."
        )
    return name, number


def missing(folder: Path) -> list[str]:
    """What a folder of a VTAB-1k task lacks, one sentence each.

    Args:
        folder: The folder of the four lists and of the images.
    """
    files = [name for lists in LISTS.values() for name in lists.values()] + [_TEST]
    if not folder.is_dir():
        return [f"there is no folder '{folder}'; it holds {', '.join(files)} and the images."]
    lacks = [f"the list '{folder / name}' is missing." for name in files if not (folder / name).is_file()]
    for name in files:
        if (folder / name).is_file():
            try:
                read_list(folder / name, folder, read_classes_file(folder))
            except DataError as error:
                return [*lacks, str(error)]
    return lacks
