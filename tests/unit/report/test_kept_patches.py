from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from typing import Any

import numpy as np
import pytest

from vitune.errors import RunError
from vitune.report.kept_patches import kept_patches

SVG = "{http://www.w3.org/2000/svg}"


def record() -> dict[str, Any]:
    """Two images of 2 x 3 patches under three gates, as read from a file."""
    layers = [
        {"role": "blocks.0.mlp.around", "kept": ["111111", "000000"]},
        {"role": "blocks.1.around", "kept": ["100001", "011110"]},
        {"role": "blocks.2.attn.around", "kept": ["010101", "101010"]},
    ]
    return json.loads(json.dumps({"grid": [2, 3], "layers": layers}))


def pictures(number: int = 2) -> list[np.ndarray]:
    return [np.full((8, 12, 3), 40 * i, dtype=np.uint8) for i in range(number)]


def test_every_image_stands_under_every_gate_with_its_skipped_patches_dimmed():
    root = ElementTree.fromstring(kept_patches(record(), pictures()))
    tiles = root.findall(f"{SVG}g")
    assert len(tiles) == 6
    assert len(root.findall(f"{SVG}defs")) == 2  # a picture is in the file once, however many gates there are
    dimmed = [len(re.findall("M", tile.find(f"{SVG}path").get("d", ""))) for tile in tiles]
    assert dimmed == [0, 4, 3, 6, 2, 3]
    assert [tile.findtext(f"{SVG}text") for tile in tiles] == ["100 %", "33 %", "50 %", "0 %", "67 %", "50 %"]
    assert [text.text for text in root.findall(f"{SVG}text")] == ["0 mlp", "1", "2 attn"]


def test_a_skipped_patch_is_dimmed_where_it_is():
    root = ElementTree.fromstring(kept_patches(record(), pictures()))
    path = root.findall(f"{SVG}g")[1].find(f"{SVG}path").get("d")
    starts = [tuple(map(float, pair)) for pair in re.findall(r"M([\d.]+) ([\d.]+)", path)]
    wide, high = 64 / 3, 32
    expected = [(wide, 0), (2 * wide, 0), (0, high), (wide, high)]
    assert np.allclose(starts, expected, atol=1e-3)


def changed(**values: Any) -> dict[str, Any]:
    return record() | values


@pytest.mark.parametrize(
    ("broken", "number", "message"),
    [
        (changed(grid=[2]), 2, "'grid' should be two whole numbers or null, found [2]"),
        (changed(layers=[]), 2, "has no layers or no images"),
        (record(), 3, "tells of 2 images, 3 pictures were given"),
        (
            changed(layers=[{"role": "a", "kept": ["11"]}]),
            1,
            "'layers.kept' should be texts of 6 digits 0 and 1",
        ),
        (changed(layers=["a"]), 1, "'layers.kept' should be texts of 6 digits 0 and 1"),
    ],
)
def test_a_record_that_cannot_be_drawn(broken, number, message):
    with pytest.raises(RunError, match=re.escape(message)):
        kept_patches(broken, pictures(number))
