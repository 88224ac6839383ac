"""Which patches of an image every gate (DyT) or block (ALaST) kept: a row per image, a tile per gate, others dimmed.

The values, as `vitune.methods.dyt.picture_record` gives them: `{"when": "evaluation", "grid": [rows, columns],
"layers": [{"role": "blocks.0.mlp.around", "kept": ["0110...", ...]}, ...]}` with one text per image, a digit per patch,
row by row; `when` is `evaluation`, or `training` where inference keeps all.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from vitune.errors import RunError
from vitune.report import units
from vitune.report.fields import Fields
from vitune.report.pictures._picture import Drawing, Picture, Table
from vitune.report.pictures.activation import short_role
from vitune.report.record import PicturesFile, RunRecord, ShownImage

TILE, GAP, HEADER, FOOTER = 64, 6, 18, 15
_LEADS = {
    "evaluation": "What each gate does in evaluation: the patches in the dark skip the part that it guards, and stay "
    "in the sequence.",
    "training": "What enters each block in a training step under the budgets at the end of the run: patches in the "
    "dark are left out. Inference computes all of them.",
}


def draw(run: RunRecord, key: str) -> tuple[Picture, ...]:
    """A picture for each method that left out patches.

    Args:
        run: The run.
        key: Start of ids.

    Raises:
        RunError: If the values are not as described, or tell of another number of images.
    """
    if run.pictures is None:
        return ()
    found = run.pictures.values_of("kept_patches")
    return tuple(
        _draw(values, run, run.pictures, f"{key}-kept-{number}") for number, values in enumerate(found)
    )


def _draw(values: Fields, run: RunRecord, file: PicturesFile, key: str) -> Picture:
    rows, columns = _grid(values)
    layers = [_layer(layer, rows * columns, len(file.images)) for layer in values.objects("layers")]
    if not layers:
        raise RunError(f"{values.where}: kept_patches has no layers; make the run again.")
    left = GAP
    width = left + len(layers) * (TILE + GAP)
    height = HEADER + len(file.images) * (TILE + FOOTER + GAP)
    drawing = Drawing(
        width,
        height,
        f"Patches kept of {len(file.images)} images by {len(layers)} layers; the shares are in the table.",
        wide=True,
    )
    for i, (role, _) in enumerate(layers):
        drawing.text(left + i * (TILE + GAP) + TILE / 2, 12, short_role(role))
    for number, image in enumerate(file.images):
        _row(
            drawing,
            f"{key}-{number}",
            HEADER + number * (TILE + FOOTER + GAP),
            image,
            number,
            layers,
            (rows, columns),
        )
    table = Table(
        ("Image", *(short_role(role) for role, _ in layers)),
        tuple(
            (run.class_name(image.label), *(units.percent(_share(kept[number])) for _, kept in layers))
            for number, image in enumerate(file.images)
        ),
    )
    lead = _LEADS.get(values.text("when") or "", "Patches in the dark were left out.")
    split = units.split_words(file.split)
    return Picture(
        "Which patches were kept",
        f"{lead} A column per gate or block, the share kept below; {split} images, evenly spaced.",
        drawing.markup(),
        table,
        wide=True,
    )


def _row(
    drawing: Drawing,
    key: str,
    top: float,
    image: ShownImage,
    number: int,
    layers: Sequence[tuple[str, tuple[str, ...]]],
    grid: tuple[int, int],
) -> None:
    """One image under all gates; the picture itself is in the page once."""
    rows, columns = grid
    high, wide = TILE / rows, TILE / columns
    place = drawing.add("defs")
    drawing.add(
        "image",
        parent=place,
        id=key,
        width=TILE,
        height=TILE,
        preserveAspectRatio="none",
        href=image.data_uri,
    )
    for i, (role, kept) in enumerate(layers):
        skipped = "".join(
            f"M{n % columns * wide:.2f} {n // columns * high:.2f}h{wide:.2f}v{high:.2f}h{-wide:.2f}z"
            for n, digit in enumerate(kept[number])
            if digit == "0"
        )
        share = f"{100 * _share(kept[number]):.0f} %"
        group = drawing.tip(f"{role}: {share} kept")
        group.set("transform", f"translate({GAP + i * (TILE + GAP)} {top:g})")
        drawing.add("use", parent=group, href=f"#{key}")
        drawing.add("path", parent=group, d=skipped, class_="veil")
        drawing.add("text", share, parent=group, x=TILE / 2, y=TILE + 12, text_anchor="middle", class_="tick")


def _share(kept: str) -> float:
    return kept.count("1") / len(kept)


def _grid(values: Fields) -> tuple[int, int]:
    grid = values.values.get("grid")
    if not isinstance(grid, list) or len(grid) != 2 or not all(isinstance(n, int) and n > 0 for n in grid):
        raise values.error("grid", "two whole numbers", grid)
    return grid[0], grid[1]


def _layer(layer: Fields, patches: int, images: int) -> tuple[str, tuple[str, ...]]:
    role, kept = layer.text("role"), layer.texts("kept")
    digits = re.compile(f"[01]{{{patches}}}")
    if role is None or not all(digits.fullmatch(one) for one in kept):
        raise layer.error("kept", f"texts of {patches} digits 0 and 1 beside a role", list(kept))
    if len(kept) != images:
        raise RunError(
            f"{layer.where}: kept_patches tells of {len(kept)} images and the file holds {images}; "
            "make the run again."
        )
    return role, kept
