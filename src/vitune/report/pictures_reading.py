"""Read `pictures.json`: a few images, and what the methods had to show of them (see `vitune.tasks.pictures`)."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path

from vitune.errors import RunError
from vitune.report.fields import Fields, read_object
from vitune.report.record import PicturesFile, ShownImage

FORMAT = 1
_JPEG = b"\xff\xd8\xff"


def read_pictures(path: Path) -> PicturesFile:
    """Read the file of pictures.

    Args:
        path: The file; must exist.

    Raises:
        RunError: If it cannot be read, its format is unknown, or it holds values of a wrong type.
    """
    found = read_object(path)
    if found.values.get("format") != FORMAT:
        raise RunError(
            f"{path} has format {found.values.get('format')!r}, but this version of vitune reads format {FORMAT}; "
            "delete the file or make the run again."
        )
    return PicturesFile(
        split=found.text("split") or "val",
        images=tuple(_image(entry) for entry in found.objects("images")),
        entries=tuple(
            (entry.text("kind") or "", entry.mapping("values")) for entry in found.objects("pictures")
        ),
    )


def _image(entry: Fields) -> ShownImage:
    data = entry.text("jpeg") or ""
    try:
        start = base64.b64decode(data, validate=True)[:3]
    except binascii.Error:
        start = b""
    if start != _JPEG:
        raise entry.error("jpeg", "a JPEG picture in base64", data)
    return ShownImage(
        name=entry.text("name"),
        label=entry.integer("label") or 0,
        predicted=entry.integer("predicted"),
        data_uri=f"data:image/jpeg;base64,{data}",
    )
