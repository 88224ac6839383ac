"""Finding the image, label and split columns of a table."""

from __future__ import annotations

from collections.abc import Sequence

from vitune.errors import DataError, did_you_mean

IMAGE_COLUMNS = ("image", "img", "path", "image_path", "filepath", "file", "filename", "file_name")
LABEL_COLUMNS = ("label", "labels", "class", "class_name", "target", "category", "fine_label")
SPLIT_COLUMN = "split"


def pick_column(
    columns: Sequence[str], wanted: str | None, usual: Sequence[str], what: str, option: str, where: str
) -> str:
    """The column that was asked for, or the first usual name that the table has.

    Args:
        columns: The table's columns.
        wanted: The name given by the user, or None.
        usual: The names tried where none is given.
        what: What the column holds, for the error ("image paths").
        option: The setting that names the column, for the error.
        where: The table, for the error.

    Raises:
        DataError: If there is no such column; the message lists those there are.
    """
    if wanted is not None:
        if wanted not in columns:
            raise DataError(
                f"{where} has no column '{wanted}' ({option}); its columns are {', '.join(columns)}. "
                f"{did_you_mean(wanted, columns)}"
            )
        return wanted
    for name in usual:
        if name in columns:
            return name
    raise DataError(
        f"{where} has no column of {what}: tried {', '.join(usual)}, found {', '.join(columns)}; "
        f"name it with {option}."
    )
