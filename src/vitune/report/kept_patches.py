"""Which patches of an image every gate of a model kept: one row per image, one tile per gate, the skipped ones dimmed.

The record is what `vitune.methods.dyt.picture_record` gives, plain JSON: `{"grid": [rows, columns], "layers": [{"role":
"blocks.0.mlp.around", "kept": ["0110...", ...]}, ...]}` with one text per image, a digit per patch, row by row.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

import numpy as np

from vitune.errors import RunError
from vitune.report.fields import Fields
from vitune.report.mistakes import data_uri

TILE, GAP, HEADER, FOOTER = 64, 6, 18, 14


def kept_patches(record: Mapping[str, Any], pictures: Sequence[np.ndarray]) -> str:
    """Draw a record as an SVG that needs no other file.

    Args:
        record: Which patches were kept.
        pictures: The images in the order of the record, (height, width, 3) of uint8, as the model saw them cropped.

    Raises:
        RunError: If the record is not as described, or there are not as many pictures as it tells of.
    """
    rows, columns = _grid(record)
    layers = [_layer(values, rows * columns, len(pictures)) for values in record.get("layers") or ()]
    if not layers or not pictures:
        raise RunError("the record of kept patches has no layers or no images; make it with a tuned model.")
    width = len(layers) * (TILE + GAP) + GAP
    height = HEADER + len(pictures) * (TILE + FOOTER + GAP)
    body = [
        f'<text x="{GAP + i * (TILE + GAP) + TILE / 2}" y="12" text-anchor="middle">{escape(_short(role))}</text>'
        for i, (role, _) in enumerate(layers)
    ]
    for number, picture in enumerate(pictures):
        top = HEADER + number * (TILE + FOOTER + GAP)
        name = f"kept-{number}"
        body.append(
            f'<defs><image id="{name}" width="{TILE}" height="{TILE}" preserveAspectRatio="none" '
            f'href="{data_uri(picture)}"/></defs>'
        )
        for i, (role, kept) in enumerate(layers):
            body.append(_tile(name, GAP + i * (TILE + GAP), top, role, kept[number], (rows, columns)))
    told = f"{len(pictures)} images, {len(layers)} gates; patches that skip a part are dimmed."
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img" '
        f'font-family="sans-serif" font-size="10" fill="currentColor"><title>Patches kept by every gate</title>'
        f"<desc>{told}</desc>{''.join(body)}</svg>"
    )


def _tile(name: str, left: int, top: int, role: str, kept: str, grid: tuple[int, int]) -> str:
    """One image under one gate, and the share of patches it kept."""
    rows, columns = grid
    high, wide = TILE / rows, TILE / columns
    skipped = "".join(
        f"M{i % columns * wide:g} {i // columns * high:g}h{wide:g}v{high:g}h{-wide:g}z"
        for i, digit in enumerate(kept)
        if digit == "0"
    )
    share = f"{100 * kept.count('1') / len(kept):.0f} %"
    return (
        f'<g transform="translate({left} {top})"><title>{escape(role)}: {share} kept</title><use href="#{name}"/>'
        f'<path d="{skipped}" fill="#101018" fill-opacity="0.78"/>'
        f'<text x="{TILE / 2}" y="{TILE + 11}" text-anchor="middle">{share}</text></g>'
    )


def _grid(record: Mapping[str, Any]) -> tuple[int, int]:
    grid = record.get("grid")
    if not isinstance(grid, list) or len(grid) != 2 or not all(isinstance(n, int) and n > 0 for n in grid):
        raise Fields(record, "the record of kept patches").error("grid", "two whole numbers", grid)
    return grid[0], grid[1]


def _layer(values: Any, patches: int, images: int) -> tuple[str, list[str]]:
    fields = Fields(values if isinstance(values, Mapping) else {}, "the record of kept patches", "layers.")
    role, kept = fields.text("role"), fields.values.get("kept")
    digits = re.compile(f"[01]{{{patches}}}")
    texts = (
        [one for one in kept if isinstance(one, str) and digits.fullmatch(one)]
        if isinstance(kept, list)
        else []
    )
    if role is None or not texts or texts != kept:
        raise fields.error("kept", f"texts of {patches} digits 0 and 1 beside a role", kept)
    if len(texts) != images:
        raise RunError(
            f"the record of kept patches tells of {len(texts)} images, {images} pictures were given."
        )
    return role, texts


def _short(role: str) -> str:
    """`blocks.3.mlp.around` as `3 mlp`, `blocks.3.around` as `3`."""
    return role.removeprefix("blocks.").removesuffix("around").strip(".").replace(".", " ")
