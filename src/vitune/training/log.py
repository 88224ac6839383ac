"""The log of a run: one JSON object a line, cut back to the checkpoint when a run is resumed."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitune.errors import RunError


class RunLog:
    """Appends JSON lines to a file; every line reaches the operating system before the next statement runs.

    Args:
        path: The file; its folder must exist.
        offset: Bytes to keep of a file that exists already: 0 for a new run, the checkpoint's offset when
            resumed.

    Raises:
        RunError: If the file cannot be written, or is shorter than the offset.
    """

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.path = path
        try:
            self._file = open(path, "ab", buffering=0)  # noqa: SIM115 (open for as long as the run lasts)
        except OSError as error:
            raise RunError(f"The log {path} cannot be written: {error.strerror}.") from None
        size = os.fstat(self._file.fileno()).st_size
        if size < offset:
            self._file.close()
            raise RunError(
                f"The log {path} has {size} bytes but the checkpoint was made when it had {offset}; "
                "it has been changed since. Start the run anew."
            )
        self._file.truncate(offset)
        self._offset = offset

    @property
    def offset(self) -> int:
        """Bytes written so far, a checkpoint's measure of the log."""
        return self._offset

    def write(self, event: str, values: Mapping[str, Any]) -> None:
        """Append one line.

        Args:
            event: Kind of the line.
            values: JSON values; a number that is not finite is written as null.

        Raises:
            RunError: If the line cannot be written, for instance since the disk is full.
        """
        line = {"event": event, **{key: _finite(value) for key, value in values.items()}, "time": time.time()}
        data = json.dumps(line, allow_nan=False).encode() + b"\n"
        try:
            written = 0
            while written < len(data):  # a disk that fills up takes a part first, and only then complains
                written += self._file.write(data[written:])
        except OSError as error:
            raise RunError(
                f"The log {self.path} cannot be written: {error.strerror}. Free space there, then resume."
            ) from None
        self._offset += len(data)

    def sync(self) -> None:
        """Make sure that the lines survive a power cut, as the checkpoint that counts on them will."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
