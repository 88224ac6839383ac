"""What a reader finds: images in a fixed order, each with the name of its class."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from PIL import Image

from vitune.data.images import image_size, read_image
from vitune.errors import DataError

Kind = Literal[
    "folder",
    "vtab",
    "table",
    "hf-parquet",
    "few-shot",
    "hf-datasets",
    "webdataset",
    "domains",
    "json-lists",
    "cifar-binary",
    "corruptions",
]


class ImageStore(Protocol):
    """Images by position. Positions are those of the files or rows as listed, whatever subset is in use."""

    def __len__(self) -> int: ...

    def image(self, position: int) -> Image.Image:
        """Decode one image to RGB; raises DataError naming it."""
        ...

    def size(self, position: int) -> tuple[int, int]:
        """Stored width and height in pixels, from the header alone; raises DataError naming the image."""
        ...

    def name(self, position: int) -> str:
        """What to call the image: its path below the data, or shard and row."""
        ...

    def origin(self, position: int) -> str:
        """Where the image is listed, for error messages."""
        ...


@dataclass(frozen=True)
class FileImages:
    """Image files below one folder.

    Args:
        root: The folder.
        names: Paths relative to `root`, or absolute.
        listed_in: Name of the list or table that the images come from; empty for a folder tree.
        lines: Line (or row) of each image in that list.
        line_word: What `lines` counts: "line" or "row".
    """

    root: Path
    names: Sequence[str]
    listed_in: str = ""
    lines: Sequence[int] = ()
    line_word: str = "line"

    def __len__(self) -> int:
        return len(self.names)

    def image(self, position: int) -> Image.Image:
        """Read one image as RGB."""
        return read_image(self.root / self.names[position], origin=self._where(position))

    def size(self, position: int) -> tuple[int, int]:
        """Stored width and height, from the header."""
        path = str(self.root / self.names[position])
        return image_size(path, name=path)

    def name(self, position: int) -> str:
        """The path as listed."""
        return self.names[position]

    def origin(self, position: int) -> str:
        """List and line, or the path."""
        return self._where(position) or f"'{self.root / self.names[position]}'"

    def check_files(self) -> None:
        """Raise DataError for the first file that is listed but does not exist."""
        for position, name in enumerate(self.names):
            if not (self.root / name).is_file():
                raise DataError(
                    f"{self.origin(position)}: there is no file '{name}' in '{self.root}'; "
                    f"correct the path or remove the {self.line_word}."
                )

    def _where(self, position: int) -> str:
        return f"{self.listed_in}, {self.line_word} {self.lines[position]}" if self.lines else ""


@dataclass(frozen=True)
class Listing:
    """Images of one split with the class name of each; nothing is decoded to make one.

    Args:
        images: Where the images are.
        classes: Class name by position of `images`.
        positions: The positions that belong to this listing, in order.
    """

    images: ImageStore
    classes: Sequence[str]
    positions: Sequence[int]

    @classmethod
    def all_of(cls, images: ImageStore, classes: Sequence[str]) -> Listing:
        """The listing of every image of a store."""
        return cls(images, classes, range(len(images)))

    def __len__(self) -> int:
        return len(self.positions)

    def subset(self, positions: Sequence[int]) -> Listing:
        """The same images restricted to some positions of the store."""
        return replace(self, positions=positions)

    def names(self) -> list[str]:
        """Name of every image, in order."""
        return [self.images.name(position) for position in self.positions]

    def digest(self) -> str:
        """Hash of all names and classes in order: equal as long as the data set is the same list."""
        hashed = hashlib.blake2b(digest_size=16)
        for position in self.positions:
            line = f"{self.images.name(position)}\t{self.classes[position]}\n"
            hashed.update(line.encode(errors="surrogateescape"))  # file names need not be UTF-8
        return hashed.hexdigest()


@dataclass(frozen=True)
class Layout:
    """A data set as found on disk, before it has a class map.

    Args:
        kind: Which reader read it.
        path: What the user named; for an object, the name of its class.
        listings: By split: "train", "val", "test"; or the single key "all" where the data are not split.
        declared: Class names in the order of their labels where the data state them (`classes.txt`,
            ClassLabel).
        rule: How the splits came about, as JSON values.
    """

    kind: Kind
    path: Path
    listings: dict[str, Listing]
    declared: tuple[str, ...] | None = None
    rule: dict[str, Any] = field(default_factory=dict)
