"""The feature pyramid of HST on a few images: the first principal component of the maps at every stride.

The values: `{"stages": [{"stride": 4, "channels": 16, "size": [rows, columns], "variance_share": 0.43, "maps": [HEX per
image]}, ...]}`, two hexadecimal digits per cell, row by row.
"""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from vitune.errors import RunError
from vitune.report import units
from vitune.report.fields import Fields
from vitune.report.pictures._picture import Drawing, Picture, Table
from vitune.report.record import PicturesFile, RunRecord

TILE, GAP, HEADER = 108, 8, 20
# From dark blue over green to yellow, even in lightness, so that it reads in grey as well.
_COLOURS = np.array(
    [(38, 20, 82), (44, 84, 138), (36, 144, 138), (110, 198, 92), (250, 230, 62)], dtype=float
)


def draw(run: RunRecord, key: str) -> tuple[Picture, ...]:
    """A picture for each method with a pyramid.

    Args:
        run: The run.
        key: Start of ids; not needed here.

    Raises:
        RunError: If the values are not as described, or tell of another number of images.
    """
    if run.pictures is None:
        return ()
    return tuple(_draw(values, run, run.pictures) for values in run.pictures.values_of("pyramid_maps"))


def _draw(values: Fields, run: RunRecord, file: PicturesFile) -> Picture:
    stages = values.objects("stages")
    maps = [_maps(stage, len(file.images)) for stage in stages]
    strides = [stage.integer("stride") for stage in stages]
    drawing = Drawing(
        GAP + (1 + len(maps)) * (TILE + GAP),
        HEADER + len(file.images) * (TILE + GAP),
        f"{len(file.images)} images, each beside its maps at strides {', '.join(map(str, strides))}.",
        wide=True,
    )
    heads = ["image", *(f"stride {stride}" for stride in strides)]
    for column, head in enumerate(heads):
        drawing.text(GAP + column * (TILE + GAP) + TILE / 2, 13, head)
    for row, image in enumerate(file.images):
        top = HEADER + row * (TILE + GAP)
        name = run.class_name(image.label)
        for column, href in enumerate([image.data_uri, *(stage[row] for stage in maps)]):
            group = drawing.tip(name if column == 0 else f"{name}, {heads[column]}")
            drawing.add(
                "image", parent=group, x=GAP + column * (TILE + GAP), y=top, width=TILE, height=TILE,
                preserveAspectRatio="none", href=href, class_="map" if column else None,
            )  # fmt: skip
    table = Table(
        ("Stride", "Channels", "Cells", "Variance shown"),
        tuple(
            (
                str(stride),
                units.count(stage.integer("channels")),
                " x ".join(map(str, stage.integers("size"))),
                units.percent(stage.share("variance_share")),
            )
            for stride, stage in zip(strides, stages, strict=True)
        ),
    )
    return Picture(
        "Feature pyramid",
        "The first principal component of the maps, over all the images shown, from the smallest value (dark) to the "
        "largest (bright). It shows a part of what the channels hold: how much of their variance, the table tells.",
        drawing.markup(),
        table,
        wide=True,
    )


def _maps(stage: Fields, images: int) -> list[str]:
    """One data URI per image."""
    size, texts = stage.integers("size"), stage.texts("maps")
    if len(size) != 2 or not size[0] * size[1]:
        raise stage.error("size", "two whole numbers", list(size))
    if len(texts) != images:
        raise RunError(
            f"{stage.where}: pyramid_maps tells of {len(texts)} images and the file holds {images}; make the run again."
        )
    return [_png(stage, text, (size[0], size[1])) for text in texts]


def _png(stage: Fields, text: str, size: tuple[int, int]) -> str:
    try:
        levels = np.frombuffer(bytes.fromhex(text), np.uint8).reshape(size)
    except ValueError:
        raise stage.error("maps", f"texts of {2 * size[0] * size[1]} hexadecimal digits", text) from None
    steps = np.linspace(0, 255, len(_COLOURS))
    pixels = np.stack([np.interp(levels, steps, _COLOURS[:, channel]) for channel in range(3)], -1)
    buffer = io.BytesIO()
    Image.fromarray(pixels.round().astype(np.uint8)).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
