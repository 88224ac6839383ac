"""CIFAR in its binary version: rows of label bytes and 3,072 bytes of pixels, in the authors' files.

`cifar-100-binary` has `train.bin` and `test.bin` (coarse label, fine label, pixels) and `fine_label_names.txt`;
`cifar-10-batches-bin` has `data_batch_1.bin` to `data_batch_5.bin`, `test_batch.bin` (label, pixels) and
`batches.meta.txt`. Pixels are three planes of 32 x 32. The version for Python is a pickle and is not read.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path

import numpy as np
from PIL import Image

from vitune.data.listing import Layout, Listing
from vitune.errors import DataError

_SIDE, _PIXELS = 32, 3 * 32 * 32


@dataclass(frozen=True)
class _Version:
    """One of the two sets.

    Attributes:
        classes: How many classes it has.
        label_bytes: Bytes before the pixels; the last is the label.
        train: Files of the training images.
        test: The file of the test images.
        names: The file of the class names.
        images: How many training and test images the published set has.
    """

    classes: int
    label_bytes: int
    train: tuple[str, ...]
    test: str
    names: str
    images: tuple[int, int]


VERSIONS = {
    100: _Version(100, 2, ("train.bin",), "test.bin", "fine_label_names.txt", (50_000, 10_000)),
    10: _Version(
        10,
        1,
        tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
        "test_batch.bin",
        "batches.meta.txt",
        (50_000, 10_000),
    ),
}


@dataclass(frozen=True)
class CifarImages:
    """Images of CIFAR's binary files, read one by one.

    Args:
        root: Their folder.
        files: Names of the files.
        counts: Images of each file.
        row_bytes: Size of a row.
    """

    root: Path
    files: Sequence[str]
    counts: Sequence[int]
    row_bytes: int

    @cached_property
    def _starts(self) -> list[int]:
        return [0, *accumulate(self.counts)]

    def __len__(self) -> int:
        return self._starts[-1]

    def image(self, position: int) -> Image.Image:
        """Read one image as RGB."""
        file, row = self._place(position)
        try:
            with (self.root / file).open("rb") as opened:
                opened.seek((row + 1) * self.row_bytes - _PIXELS)
                planes = opened.read(_PIXELS)
        except OSError as error:
            raise DataError(
                f"image '{self.name(position)}' cannot be read: {error.strerror}; check the file."
            ) from None
        if len(planes) < _PIXELS:
            raise DataError(
                f"image '{self.name(position)}' cannot be read: '{file}' has become shorter; restore it."
            )
        pixels = np.frombuffer(planes, np.uint8).reshape(3, _SIDE, _SIDE)
        return Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))

    def size(self, position: int) -> tuple[int, int]:
        """Width and height: always 32 and 32."""
        return _SIDE, _SIDE

    def name(self, position: int) -> str:
        """File and row."""
        file, row = self._place(position)
        return f"{file}#{row}"

    def origin(self, position: int) -> str:
        """File and row."""
        file, row = self._place(position)
        return f"'{self.root / file}', row {row}"

    def _place(self, position: int) -> tuple[str, int]:
        file = bisect_right(self._starts, position) - 1
        return self.files[file], position - self._starts[file]


def cifar_version(folder: Path) -> int | None:
    """100 or 10 where a training file of that set lies in this folder, else None."""
    for classes, version in VERSIONS.items():
        if any((folder / name).is_file() for name in version.train) or _names_and_test(folder, version):
            return classes
    return None


def read_cifar(folder: Path, classes: int) -> Layout:
    """Read the files of a folder.

    Args:
        folder: Their folder.
        classes: Which version, 100 or 10.

    Raises:
        DataError: If a file is missing, is not a whole number of rows, or has a label out of range.
    """
    version = VERSIONS[classes]
    names = _class_names(folder, version)
    listings = {"train": _listing(folder, version.train, version, names)}
    if (folder / version.test).is_file():
        listings["test"] = _listing(folder, (version.test,), version, names)
    rule = {"rule": "lists", "lists": {"train": list(version.train), "test": version.test}}
    return Layout("cifar-binary", folder, listings, names, rule)


def missing(folder: Path, *, classes: int = 100) -> list[str]:
    """What a folder of CIFAR's binary version lacks, one sentence each.

    Args:
        folder: The folder.
        classes: 100 or 10.
    """
    version = VERSIONS[classes]
    if not folder.is_dir():
        return [
            f"there is no folder '{folder}'; it is what the binary version of CIFAR-{classes} unpacks to."
        ]
    lacks = [
        f"'{folder / name}' is missing: a file of the binary version of CIFAR-{classes}."
        for name in (*version.train, version.test, version.names)
        if not (folder / name).is_file()
    ]
    if lacks:
        return lacks
    try:
        layout = read_cifar(folder, classes)
    except DataError as error:
        return [str(error)]
    return [
        f"the {split} files in '{folder}' have {len(layout.listings[split])} images, expected {count}."
        for split, count in zip(("train", "test"), version.images, strict=True)
        if len(layout.listings[split]) != count
    ]


def _names_and_test(folder: Path, version: _Version) -> bool:
    return (folder / version.test).is_file() and (folder / version.names).is_file()


def _class_names(folder: Path, version: _Version) -> tuple[str, ...]:
    path = folder / version.names
    if not path.is_file():
        raise DataError(f"'{path}' is missing: it names the classes; restore it from the archive.")
    names = tuple(path.read_text(encoding="utf-8").split())
    if len(set(names)) != len(names) or len(names) != version.classes:
        raise DataError(f"'{path}' names {len(set(names))} classes, expected {version.classes}; restore it.")
    return names


def _listing(folder: Path, files: Sequence[str], version: _Version, names: tuple[str, ...]) -> Listing:
    row_bytes = version.label_bytes + _PIXELS
    labels: list[int] = []
    counts = []
    for name in files:
        path = folder / name
        if not path.is_file():
            raise DataError(f"'{path}' is missing; restore it from the archive.")
        size = path.stat().st_size
        if size == 0 or size % row_bytes:
            raise DataError(
                f"'{path}' has {size:,} bytes, which is no whole number of rows of {row_bytes:,}; "
                "restore it from the archive."
            )
        rows = np.memmap(path, np.uint8, "r", shape=(size // row_bytes, row_bytes))
        own = rows[:, version.label_bytes - 1].tolist()
        if max(own) >= version.classes:
            raise DataError(
                f"'{path}', row {own.index(max(own))}: label {max(own)} is out of range; "
                f"the labels of this data set are 0..{version.classes - 1}."
            )
        labels += own
        counts.append(len(own))
    images = CifarImages(folder, tuple(files), tuple(counts), row_bytes)
    return Listing.all_of(images, [names[label] for label in labels])
