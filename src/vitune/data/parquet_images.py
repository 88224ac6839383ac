"""Encoded images inside Parquet shards, read by row group."""

from __future__ import annotations

import io
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from threading import Lock
from typing import Any

from PIL import Image

from vitune._extras import require
from vitune.data.images import decode_image, image_size
from vitune.errors import DataError

HELD_BYTES = 1 << 30  # encoded bytes that one process keeps; more are read again from the file


@dataclass(frozen=True)
class Shard:
    """One Parquet file and its number of rows."""

    path: Path
    rows: int


class ParquetImages:
    """The images of some shards, in order.

    Row groups are read when first asked for and the most recently used are kept, up to `HELD_BYTES`.

    Args:
        shards: The files.
        column: The column of encoded images: bytes, or a struct with a field `bytes`.
    """

    def __init__(self, shards: Sequence[Shard], column: str) -> None:
        self._shards = list(shards)
        self._column = column
        self._ends = list(accumulate(shard.rows for shard in self._shards))
        self._held: OrderedDict[tuple[int, int], Any] = OrderedDict()
        self._group_ends: dict[int, list[int]] = {}
        self._lock = Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"shards": self._shards, "column": self._column}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["shards"], state["column"])

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def image(self, position: int) -> Image.Image:
        """Decode one image to RGB."""
        return decode_image(self.encoded(position), name=self.name(position))

    def size(self, position: int) -> tuple[int, int]:
        """Stored width and height, from the header."""
        return image_size(io.BytesIO(self.encoded(position)), name=self.name(position))

    def name(self, position: int) -> str:
        """File name and row, counted from 1."""
        shard, row = self._locate(position)
        return f"{self._shards[shard].path.name}, row {row + 1}"

    def origin(self, position: int) -> str:
        """Path and row, counted from 1."""
        shard, row = self._locate(position)
        return f"'{self._shards[shard].path}', row {row + 1}"

    def encoded(self, position: int) -> bytes:
        """The bytes of one image file.

        Raises:
            DataError: If the row holds none.
        """
        shard, row = self._locate(position)
        with self._lock:
            group, start = self._group(shard, row)
        value = group[row - start].as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        if not data:
            raise DataError(
                f"image '{self.name(position)}' holds no bytes; embed the image in the Parquet file."
            )
        return data

    def _locate(self, position: int) -> tuple[int, int]:
        shard = bisect_right(self._ends, position)
        return shard, position - (self._ends[shard - 1] if shard else 0)

    def _group(self, shard: int, row: int) -> tuple[Any, int]:
        if shard not in self._group_ends:
            with self._open(shard) as file:
                counts = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
            self._group_ends[shard] = list(accumulate(counts))
        ends = self._group_ends[shard]
        number = bisect_right(ends, row)
        key = (shard, number)
        if key not in self._held:
            # One thread: data workers are forked, and pyarrow's pool does not always survive that.
            with self._open(shard) as file:
                table = file.read_row_group(number, columns=[self._column], use_threads=False)
            self._held[key] = table.column(self._column).combine_chunks()
            while len(self._held) > 1 and sum(group.nbytes for group in self._held.values()) > HELD_BYTES:
                self._held.popitem(last=False)
        self._held.move_to_end(key)
        return self._held[key], ends[number - 1] if number else 0

    def _open(self, shard: int) -> Any:
        return require("pyarrow.parquet", "parquet", "Reading Parquet files").ParquetFile(
            self._shards[shard].path
        )
