"""Files and folders that are whole or absent: written to a temporary sibling, then renamed; files are flushed first."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which appears under its name when it is full.

    Several processes may make the same folder at once: the quickest one's stays, and serves all.

    Args:
        path: The folder to make, and those above it.

    Raises:
        OSError: If it cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield partial
        partial.chmod(0o755)  # mkdtemp makes a private one
        try:
            os.replace(partial, path)
        except OSError:
            if not path.is_dir():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # gone already where all went well
