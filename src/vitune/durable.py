"""Files that are whole or absent: written to a temporary sibling, flushed to the disk, then renamed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


def flush_file(path: Path) -> None:
    """Wait until the bytes of a file are on the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def flush_folder(path: Path) -> None:
    """Wait until the entries of a folder (names made, renamed or removed in it) are on the disk."""
    if os.name != "posix":  # elsewhere a folder cannot be opened, and the rename itself is journalled
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Make or replace one file so that a reader sees the old one or the new one, never a part.

    Args:
        path: The file to make; its folder must exist.
        write: Called with a temporary path in the same folder, must leave the whole content there.
    """
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        write(temporary)
        flush_file(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    flush_folder(path.parent)
