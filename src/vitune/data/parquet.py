"""Parquet: shards of encoded images as Hugging Face `datasets` writes them, and tables of image paths."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vitune._extras import require
from vitune.data.classes import check_class_names, class_of_number, read_classes_file
from vitune.data.columns import IMAGE_COLUMNS, LABEL_COLUMNS, SPLIT_COLUMN, pick_column
from vitune.data.listing import Layout, Listing
from vitune.data.parquet_images import ParquetImages, Shard
from vitune.data.split_names import KNOWN_SPLITS, split_of_file
from vitune.data.table import TableRow, layout_of_rows
from vitune.errors import DataError

_UNLABELLED = -1  # what `datasets` writes for a test split whose labels are withheld


def parquet_shards(folder: Path) -> list[Path]:
    """Sorted visible Parquet files of a folder, or of its sub-folder `data` as on the Hugging Face hub."""
    for place in (folder, folder / "data"):
        shards = sorted(path for path in place.glob("*.parquet") if not path.name.startswith("."))
        if shards:
            return shards
    return []


def read_parquet(
    path: Path, shards: list[Path], image_column: str | None, label_column: str | None
) -> Layout:
    """Read one Parquet file, or the shards of a folder, whose names start with their split.

    Args:
        path: What the user named.
        shards: The files.
        image_column: Column of encoded images or of paths, or None for the first usual name.
        label_column: Column of the labels, or None for the first usual name.

    Raises:
        ConfigError: If pyarrow is not installed.
        DataError: If a file is no Parquet file, a column is missing or of a type that cannot be used, or a
            label is missing or out of range.
    """
    arrow = require("pyarrow", "parquet", "Reading Parquet files")
    parquet = require("pyarrow.parquet", "parquet", "Reading Parquet files")
    first = _open(parquet, shards[0])
    columns, where = first.schema_arrow.names, f"'{shards[0]}'"
    image = pick_column(columns, image_column, IMAGE_COLUMNS, "images", "image_column", where)
    label = pick_column(columns, label_column, LABEL_COLUMNS, "labels", "label_column", where)
    image_type = first.schema_arrow.field(image).type
    if arrow.types.is_string(image_type) or arrow.types.is_large_string(image_type):
        if len(shards) > 1:
            raise DataError(f"'{path}' holds {len(shards)} Parquet tables of image paths; name one of them.")
        return layout_of_rows(shards[0], _path_rows(first, shards[0], image, label), "row")
    if not _holds_bytes(arrow, image_type):
        raise DataError(
            f"{where}: column '{image}' is of type {image_type}; expected encoded bytes or paths."
        )
    declared = _names_of_schema(first, label, where) or read_classes_file(shards[0].parent)
    return _read_encoded(parquet, path, shards, image, label, declared)


def _read_encoded(
    parquet: Any, path: Path, shards: list[Path], image: str, label: str, declared: tuple[str, ...] | None
) -> Layout:
    by_split: dict[str, list[Path]] = {}
    for shard in shards:
        by_split.setdefault(_split_of(shard, alone=path == shard), []).append(shard)
    if "all" in by_split and len(by_split) > 1:
        odd = by_split["all"][0]
        raise DataError(
            f"'{odd}' names no split; start each file's name with one of {', '.join(KNOWN_SPLITS)}."
        )
    listings: dict[str, Listing] = {}
    unlabelled = []
    for split, files in by_split.items():
        labels = {file: _labels(parquet, file, image, label) for file in files}
        if not any(labels.values()):
            raise DataError(f"'{files[0]}' has no rows; expected one image a row.")
        if split == "test" and all(value == _UNLABELLED for values in labels.values() for value in values):
            unlabelled.append(split)
            continue
        classes = [
            value if isinstance(value, str) else class_of_number(value, declared, f"'{file}', row {row}")
            for file, values in labels.items()
            for row, value in enumerate(values, 1)
        ]
        shards_with_rows = [Shard(file, len(values)) for file, values in labels.items()]
        listings[split] = Listing.all_of(ParquetImages(shards_with_rows, image), classes)
    rule = {"rule": "shard names" if "all" not in listings else "no split in the file names"}
    rule |= {"shards": {split: [file.name for file in files] for split, files in by_split.items()}}
    return Layout(
        "hf-parquet", path, listings, declared, rule | ({"unlabelled": unlabelled} if unlabelled else {})
    )


def _open(parquet: Any, path: Path) -> Any:
    try:
        return parquet.ParquetFile(path)
    except (OSError, ValueError) as error:  # pyarrow's own errors are subclasses of these
        reason = str(error).splitlines()[0].rstrip(".")
        raise DataError(
            f"'{path}' cannot be read as Parquet: {reason}; write or download it again."
        ) from error


def _labels(parquet: Any, path: Path, image: str, label: str) -> list[str | int]:
    file = _open(parquet, path)
    for name in (image, label):
        if name not in file.schema_arrow.names:
            raise DataError(
                f"'{path}' has no column '{name}', which the first shard has; write all shards alike."
            )
    labels = file.read(columns=[label], use_threads=False).column(label).to_pylist()
    for row, value in enumerate(labels, 1):
        if not isinstance(value, str | int):
            raise DataError(
                f"'{path}', row {row}: label {value!r} is neither an integer nor text; correct it."
            )
    return labels


def _path_rows(file: Any, path: Path, image: str, label: str) -> list[TableRow]:
    names = file.schema_arrow.names
    table = file.read(columns=[image, label] + [SPLIT_COLUMN] * (SPLIT_COLUMN in names)).to_pylist()
    return [
        TableRow(
            number,
            row[image] or "",
            "" if row[label] is None else str(row[label]).strip(),
            (row[SPLIT_COLUMN] or "") if SPLIT_COLUMN in row else None,
        )
        for number, row in enumerate(table, 1)
    ]


def _holds_bytes(arrow: Any, kind: Any) -> bool:
    if arrow.types.is_struct(kind):
        return any(kind.field(i).name == "bytes" for i in range(kind.num_fields))
    return arrow.types.is_binary(kind) or arrow.types.is_large_binary(kind)


def _names_of_schema(file: Any, label: str, where: str) -> tuple[str, ...] | None:
    written = (file.schema_arrow.metadata or {}).get(b"huggingface")
    if written is None:
        return None
    try:
        feature = json.loads(written)["info"]["features"][label]
        names = [str(name) for name in feature["names"]] if feature.get("_type") == "ClassLabel" else None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{where} has a Hugging Face header that cannot be read ({error!r}); write it again."
        ) from error
    if names is None:
        return None
    check_class_names(names, f"the ClassLabel of {where}")
    return tuple(names)


def _split_of(shard: Path, *, alone: bool) -> str:
    return "all" if alone else split_of_file(shard.stem) or "all"
