"""WebDataset shards: plain tars in which the files of one sample share their name up to the first dot.

A sample has an image (`KEY.jpg`, `KEY.png` ...) and a label: `KEY.cls`, a number or a name, or `KEY.json`, an object
with a label among its fields. Members are listed once, by their headers; an image is then read by its place, in any
order.
"""

from __future__ import annotations

import json
import posixpath
import tarfile
from pathlib import Path
from typing import Any

from vitune.data.classes import class_of_number, read_classes_file
from vitune.data.columns import LABEL_COLUMNS, pick_column
from vitune.data.folder import visible_folders
from vitune.data.images import is_image_name
from vitune.data.listing import Layout, Listing
from vitune.data.split_names import KNOWN_SPLITS, split_of_file
from vitune.data.tar_images import Member, TarImages
from vitune.errors import DataError

_LABEL_FIELDS = ("cls", *LABEL_COLUMNS)
_PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


def is_packed_tar(path: Path) -> bool:
    """Whether a file is a compressed tar by its name."""
    return path.name.lower().endswith(_PACKED)


def tar_shards(path: Path) -> list[Path]:
    """A tar itself, or the sorted visible tars of a folder without class folders, or of its sub-folder `data`.

    An archive beside the folders that were unpacked from it is no shard.
    """
    if path.is_file():
        return [path] if path.suffix.lower() == ".tar" else []
    for place in (path, path / "data"):
        if not place.is_dir():
            continue
        shards = sorted(file for file in place.glob("*.tar") if not file.name.startswith("."))
        if shards and not visible_folders(place):
            return shards
    return []


def read_webdataset(
    path: Path, shards: list[Path], image_column: str | None, label_column: str | None
) -> Layout:
    """Read one shard, or those of a folder, whose names start with their split.

    Args:
        path: What the user named.
        shards: The tars.
        image_column: Extension of the images ("jpg", "left.png") where a sample has several; None takes the one there
            is.
        label_column: Extension of the labels ("cls", "json"), or a field of the JSON; None tries the usual ones.

    Raises:
        DataError: If a file is no plain tar, a sample lacks its image or label or has several, or a label cannot be
            used.
    """
    declared = read_classes_file(shards[0].parent)
    by_split: dict[str, list[Path]] = {}
    for shard in shards:
        split = "all" if shard == path else split_of_file(shard.stem) or "all"
        by_split.setdefault(split, []).append(shard)
    if "all" in by_split and len(by_split) > 1:
        raise DataError(
            f"'{by_split['all'][0]}' names no split; start each file's name with one of {', '.join(KNOWN_SPLITS)}."
        )
    listings: dict[str, Listing] = {}
    unlabelled = []
    for split, files in by_split.items():
        samples = [sample for file in files for sample in _samples(file)]
        if split == "test" and not any(_label_members(sample) for sample in samples):
            unlabelled.append(split)
            continue
        images = [_image_of(sample, image_column) for sample in samples]
        classes = [_class_of(sample, label_column, declared) for sample in samples]
        listings[split] = Listing.all_of(TarImages(images), classes)
    rule: dict[str, Any] = {"rule": "shard names" if "all" not in listings else "no split in the file names"}
    rule |= {"shards": {split: [file.name for file in files] for split, files in by_split.items()}}
    rule |= {"unlabelled": unlabelled} if unlabelled else {}
    return Layout("webdataset", path, listings, declared, rule)


def _samples(shard: Path) -> list[dict[str, Member]]:
    """The files of every sample by extension, in the order of their first file."""
    samples: dict[str, dict[str, Member]] = {}
    try:
        with tarfile.open(shard, "r:") as archive:
            for entry in archive:
                folder, name = posixpath.split(entry.name.removeprefix("./"))
                stem, _, extension = name.partition(".")
                if not entry.isreg() or not stem or not extension:
                    continue  # folders, links, hidden files, files without an extension
                key = posixpath.join(folder, stem)
                files = samples.setdefault(key, {})
                if extension.lower() in files:
                    raise DataError(f"'{shard}' holds '{entry.name}' twice; write each sample once.")
                files[extension.lower()] = Member(shard, key, entry.offset_data, entry.size)
    except (tarfile.TarError, OSError) as error:
        raise DataError(
            f"'{shard}' cannot be read as a plain tar: {error}; write it without compression."
        ) from None
    if not samples:
        raise DataError(f"'{shard}' holds no samples; expected files such as 0001.jpg and 0001.cls.")
    return list(samples.values())


def _image_of(sample: dict[str, Member], wanted: str | None) -> Member:
    found = [extension for extension in sample if is_image_name(f"x.{extension}")]
    if wanted is not None:
        found = [extension for extension in sample if extension == wanted.lower().removeprefix(".")]
    if len(found) == 1:
        return sample[found[0]]
    what = "several images" if found else "no image"
    hint = "name one extension with image_column" if found else "expected a file such as .jpg or .png"
    if wanted is not None:
        hint = f"image_column asks for .{wanted.removeprefix('.')}"
    raise DataError(f"{_place(sample)} has {what} ({_extensions(sample)}); {hint}.")


def _label_members(sample: dict[str, Member]) -> list[str]:
    return [extension for extension in ("cls", "json") if extension in sample]


def _class_of(sample: dict[str, Member], wanted: str | None, declared: tuple[str, ...] | None) -> str:
    where, found = _place(sample), _label_members(sample)
    if wanted is not None:  # an extension, or else a field of the JSON
        found = [wanted] if wanted in found else [name for name in found if name == "json"]
    if not found:
        raise DataError(f"{where} has no label ({_extensions(sample)}); expected a .cls or .json file.")
    try:
        text = sample[found[0]].read().decode().strip()
        value = _field(json.loads(text), wanted, where) if found[0] == "json" else text
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{where}: its .{found[0]} file cannot be read: {error}; write it again.") from None
    if isinstance(value, str) and value.lstrip("-").isdecimal():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (int, str)) or value == "":
        raise DataError(f"{where}: label {value!r} is neither an integer nor text; correct it.")
    return value if isinstance(value, str) else class_of_number(value, declared, where)


def _field(content: Any, wanted: str | None, where: str) -> Any:
    if not isinstance(content, dict):
        return content
    wanted = None if wanted == "json" else wanted
    return content[pick_column(list(content), wanted, _LABEL_FIELDS, "labels", "label_column", where)]


def _place(sample: dict[str, Member]) -> str:
    member = next(iter(sample.values()))
    return f"'{member.shard}', sample '{member.key}'"


def _extensions(sample: dict[str, Member]) -> str:
    return ", ".join(f".{extension}" for extension in sample)
