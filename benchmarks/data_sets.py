"""Where the benchmarks find their data: folders, or tar files that are unpacked once."""

from __future__ import annotations

from pathlib import Path

from vitune.bench.suite_data import unpack
from vitune.errors import DataError


def data_set(name: str, root: Path, unpacked: Path) -> Path:
    """The folder of a data set.

    Args:
        name: Its name.
        root: Folder that holds `NAME/` or `NAME.tar`.
        unpacked: Folder for what comes out of tar files.

    Raises:
        DataError: If there is neither a folder nor a tar file of that name.
    """
    for folder in (root / name, unpacked / name):
        if folder.is_dir():
            return folder
    archive = root / f"{name}.tar"
    if not archive.is_file():
        raise DataError(
            f"no data set '{name}' in '{root}': looked for the folder '{name}' and '{archive.name}'."
        )
    return unpack(archive, unpacked / name)
