from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from typing import Any

import numpy as np
import pytest

from vitune.errors import RunError
from vitune.report.pictures.kept_patches import draw

from .small import run_with


def record(**values: Any) -> dict[str, Any]:
    """Two images of 2 x 3 patches under three gates."""
    layers = [
        {"role": "blocks.0.mlp.around", "kept": ["111111", "000000"]},
        {"role": "blocks.1.around", "kept": ["100001", "011110"]},
        {"role": "blocks.2.attn.around", "kept": ["010101", "101010"]},
    ]
    return {"when": "evaluation", "grid": [2, 3], "layers": layers} | values


def test_every_image_stands_under_every_gate_with_its_skipped_patches_dimmed():
    (picture,) = draw(run_with("kept_patches", record()), "run")
    root = ElementTree.fromstring(picture.drawing)
    tiles = root.findall("g")
    assert len(tiles) == 6
    assert len(root.findall("defs")) == 2  # a picture is in the page once, however many gates there are
    assert {use.get("href") for use in root.iter("use")} == {"#run-kept-0-0", "#run-kept-0-1"}
    dimmed = [len(re.findall("M", path.get("d", ""))) for path in root.iter("path")]
    assert dimmed == [0, 4, 3, 6, 2, 3]
    assert [tile.findtext("text") for tile in tiles] == ["100 %", "33 %", "50 %", "0 %", "67 %", "50 %"]
    assert [text.text for text in root.findall("text")] == ["0 mlp", "1", "2 attn"]
    assert picture.table.head == ("Image", "0 mlp", "1", "2 attn")
    assert picture.table.rows[1] == ("bird", "0.0\u00a0%", "66.7\u00a0%", "50.0\u00a0%")
    assert "in evaluation" in picture.lead


def test_a_skipped_patch_is_dimmed_where_it_is():
    (picture,) = draw(run_with("kept_patches", record()), "run")
    path = list(ElementTree.fromstring(picture.drawing).iter("path"))[1].get("d", "")
    starts = [tuple(map(float, pair)) for pair in re.findall(r"M([\d.]+) ([\d.]+)", path)]
    wide, high = 64 / 3, 32
    assert np.allclose(starts, [(wide, 0), (2 * wide, 0), (0, high), (wide, high)], atol=0.01)


def test_what_training_leaves_out_is_said_to_be_training():
    (picture,) = draw(run_with("kept_patches", record(when="training")), "run")
    assert "Inference computes all" in picture.lead


def test_a_run_without_pictures_has_none():
    assert draw(run_with(), "run") == ()


@pytest.mark.parametrize(
    ("broken", "images", "message"),
    [
        (record(grid=[2]), 2, "'values.grid' should be two whole numbers or null, found [2]"),
        (record(layers=[]), 2, "kept_patches has no layers"),
        (record(), 3, "tells of 2 images and the file holds 3"),
        (record(layers=[{"role": "a", "kept": ["11"]}]), 1, "should be texts of 6 digits 0 and 1"),
        (record(layers=[{"kept": ["111111"]}]), 1, "should be texts of 6 digits 0 and 1 beside a role"),
    ],
)
def test_values_that_cannot_be_drawn(broken, images, message):
    with pytest.raises(RunError, match=re.escape(message)):
        draw(run_with("kept_patches", broken, images=images), "run")
