"""CSV and Parquet tables of image paths and labels, with an optional column `split`."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vitune.data.classes import class_of_number, read_classes_file
from vitune.data.columns import IMAGE_COLUMNS, LABEL_COLUMNS, SPLIT_COLUMN, pick_column
from vitune.data.listing import FileImages, Layout, Listing
from vitune.data.split_names import KNOWN_SPLITS, split_of_word
from vitune.errors import DataError

CSV_SUFFIXES = {".csv": ",", ".tsv": "\t"}


@dataclass(frozen=True)
class TableRow:
    """One row of a table.

    Args:
        number: Line in a text file, or row of a Parquet file, from 1.
        path: Image path as written, relative to the table's folder or absolute.
        label: Label as written; an integer stands for itself or for a line of `classes.txt`.
        split: The split as written, or None where the table has no such column.
    """

    number: int
    path: str
    label: str
    split: str | None


def read_csv(path: Path, image_column: str | None, label_column: str | None) -> Layout:
    """Read a .csv or .tsv file with a header line.

    Args:
        path: The file; image paths are relative to its folder.
        image_column: Column of the paths, or None for the first usual name.
        label_column: Column of the labels, or None for the first usual name.

    Raises:
        DataError: If the file is empty or not UTF-8, or a column, path or label is missing.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(_csv_rows(file, path, image_column, label_column))
    except UnicodeDecodeError as error:
        raise DataError(f"'{path}' is not UTF-8 text; save it as UTF-8.") from error
    except csv.Error as error:
        raise DataError(f"'{path}' is not a readable CSV file: {error}.") from error
    return layout_of_rows(path, rows, "line")


def layout_of_rows(path: Path, rows: Sequence[TableRow], line_word: str) -> Layout:
    """The layout of the rows of a table.

    Args:
        path: The table.
        rows: All rows, in order.
        line_word: What their numbers count: "line" or "row".

    Raises:
        DataError: If there is no row, or one has no path, no label, an unknown split or a file that does not
            exist.
    """
    if not rows:
        raise DataError(f"'{path}' has no rows below its header; list one image a row.")
    declared = read_classes_file(path.parent) if all(_is_integer(row.label) for row in rows) else None
    classes: list[str] = []
    by_split: dict[str, list[int]] = {}
    for position, row in enumerate(rows):
        where = f"'{path}', {line_word} {row.number}"
        if not row.path or not row.label:
            raise DataError(
                f"{where} has no {'label' if row.path else 'image path'}; fill it or remove the row."
            )
        classes.append(
            class_of_number(int(row.label), declared, where) if declared is not None else row.label
        )
        by_split.setdefault(_split_of(row, where), []).append(position)
    images = FileImages(
        path.parent, [row.path for row in rows], f"'{path}'", [row.number for row in rows], line_word
    )
    images.check_files()
    everything = Listing.all_of(images, classes)
    listings = {split: everything.subset(positions) for split, positions in by_split.items()}
    rule = {"rule": "no split column" if "all" in listings else f"column '{SPLIT_COLUMN}'"}
    return Layout("table", path, listings, declared, rule)


def _csv_rows(
    file: Iterator[str], path: Path, image_column: str | None, label_column: str | None
) -> Iterator[TableRow]:
    reader = csv.DictReader(file, delimiter=CSV_SUFFIXES[path.suffix.lower()], strict=True)
    columns = [name.strip() for name in reader.fieldnames or ()]
    if not columns:
        raise DataError(f"'{path}' is empty; its first line must name the columns, such as 'path,label'.")
    reader.fieldnames = columns
    image = pick_column(columns, image_column, IMAGE_COLUMNS, "image paths", "image_column", f"'{path}'")
    label = pick_column(columns, label_column, LABEL_COLUMNS, "labels", "label_column", f"'{path}'")
    for row in reader:
        split = (row[SPLIT_COLUMN] or "") if SPLIT_COLUMN in columns else None
        yield TableRow(reader.line_num, (row[image] or "").strip(), (row[label] or "").strip(), split)


def _split_of(row: TableRow, where: str) -> str:
    if row.split is None:
        return "all"
    split = split_of_word(row.split)
    if split is None:
        raise DataError(f"{where} has the split '{row.split}'; known are {', '.join(KNOWN_SPLITS)}.")
    return split


def _is_integer(label: str) -> bool:
    return label.removeprefix("-").isdecimal()
