"""One split of a data set, ready to be read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from vitune.data.listing import Listing


@dataclass(frozen=True)
class Samples:
    """Images with labels, in a fixed order. Nothing is decoded before `image` is called.

    Args:
        listing: Where the images are.
        labels: Label of each image, an index into `class_names`.
        class_names: The class map.
        split: "train", "val" or "test".
        skipped: Names of the images left out since they could not be read; an evaluation must report their
            number.
    """

    listing: Listing
    labels: list[int]
    class_names: tuple[str, ...]
    split: str
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Image.Image:
        """Decode one image.

        Args:
            index: From 0 to the number of images less one.

        Returns:
            An upright 8-bit RGB image.

        Raises:
            DataError: If the image cannot be read; the message names it.
            IndexError: If there is no such image.
        """
        return self.listing.images.image(self._position(index))

    def name(self, index: int) -> str:
        """What to call an image: its path below the data, or its shard and row."""
        return self.listing.images.name(self._position(index))

    def size(self, index: int) -> tuple[int, int]:
        """Width and height in pixels as stored (before any EXIF rotation), from the header alone."""
        return self.listing.images.size(self._position(index))

    def subset(self, indices: Sequence[int]) -> Samples:
        """Some of the samples, in the given order."""
        positions = [self._position(index) for index in indices]
        labels = [self.labels[index] for index in indices]
        return Samples(self.listing.subset(positions), labels, self.class_names, self.split, self.skipped)

    def _position(self, index: int) -> int:
        if not 0 <= index < len(self.labels):
            raise IndexError(
                f"index {index} is not among the {len(self.labels)} samples of the {self.split} split"
            )
        return self.listing.positions[index]
