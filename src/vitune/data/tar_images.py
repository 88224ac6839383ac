"""Encoded images inside tar shards, read by their place in the file."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from vitune.data.images import decode_image, image_size
from vitune.errors import DataError


@dataclass(frozen=True, slots=True)
class Member:
    """One file inside a tar.

    Attributes:
        shard: The tar.
        key: Name of the sample that it belongs to.
        offset: Where its bytes begin in the tar.
        size: How many there are.
    """

    shard: Path
    key: str
    offset: int
    size: int

    def read(self) -> bytes:
        """Its bytes.

        Raises:
            DataError: If the tar has become shorter, or cannot be read.
        """
        try:
            with self.shard.open("rb") as file:
                file.seek(self.offset)
                data = file.read(self.size)
        except OSError as error:
            raise DataError(f"'{self.shard}' cannot be read: {error.strerror or error}.") from error
        if len(data) != self.size:
            raise DataError(f"'{self.shard}' ends inside sample '{self.key}'; download or write it again.")
        return data


class TarImages:
    """The images of some shards, in order; a tar is opened for every read, so workers share nothing.

    Args:
        members: The image of each sample.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        self._members = list(members)

    def __len__(self) -> int:
        return len(self._members)

    def image(self, position: int) -> Image.Image:
        """Decode one image to RGB."""
        return decode_image(self._members[position].read(), name=self.name(position))

    def size(self, position: int) -> tuple[int, int]:
        """Stored width and height, from the header."""
        return image_size(io.BytesIO(self._members[position].read()), name=self.name(position))

    def name(self, position: int) -> str:
        """Name of the tar, and the sample's key in it."""
        member = self._members[position]
        return f"{member.shard.name}, {member.key}"

    def origin(self, position: int) -> str:
        """Path of the tar, and the sample's key in it."""
        member = self._members[position]
        return f"'{member.shard}', sample '{member.key}'"
