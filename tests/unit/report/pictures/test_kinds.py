"""Every kind of picture: what is drawn is what the run logged, and what cannot be drawn is said."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest

from vitune.errors import RunError
from vitune.report.pictures import (
    KINDS,
    activation,
    alast_steps,
    channel_scores,
    draw_all,
    pruned_prompts,
    pyramid_maps,
)
from vitune.report.pictures._heat import binned

from .small import run_with


def alast_line(step: int, budgets: list[float], trained: list[int]) -> dict[str, Any]:
    return {"step": step, "alast_budgets": budgets, "alast_trained": trained, "alast_tokens": [5, 4]}


SKIPPING = {
    "images": 24,
    "kept_share": 0.5,
    "rates": {"blocks.0.mlp.around": 0.25, "blocks.1.mlp.around": 0.75},
    "plain_flops": 1000,
    "masked_flops": 1010,
    "executed_flops": 700,
    "timed_images": 8,
    "plain_images_per_second": 100.0,
    "masked_images_per_second": 90.0,
    "images_per_second": 120.0,
}
PRUNED = {
    "token_score": "removal",
    "tokens": [0.5, -0.1],
    "segments": [[0.1, 0.2], [0.3, 0.4]],
    "kept_tokens": [1, 0],
    "kept_segments": [[0, 1], [1, 0]],
}
STAGE = {"stride": 4, "channels": 16, "size": [2, 2], "variance_share": 0.4, "maps": ["00ff00ff", "ffffffff"]}


def test_budgets_trained_blocks_and_tokens_over_steps():
    lines = [alast_line(10, [0.9, 0.8], [0]), alast_line(20, [0.7, 1.0], [0, 1])]
    budgets, trained, tokens = alast_steps.draw(run_with(steps=lines), "run")
    assert budgets.table.rows == (
        ("0", "0.90", "0.70", "100.0\u00a0%", "5.0"),
        ("1", "0.80", "1.00", "50.0\u00a0%", "4.0"),
    )
    root = ElementTree.fromstring(budgets.drawing)
    assert [title.text for title in root.iter("title")] == [
        "step 10\nblock 0: 0.90\n1: 0.80",
        "step 20\nblock 0: 0.70\n1: 1.00",
    ]
    assert "block 0 from 100 % to 100 %; 1 from 0 % to 100 %" in trained.drawing
    assert "block 0 from 5 to 5" in tokens.drawing
    assert alast_steps.draw(run_with(steps=[{"step": 1, "loss": 2.0}]), "run") == ()


def test_many_steps_are_drawn_as_means_of_neighbours():
    columns, values = binned([1, 2, 3, 4, 5], [[1.0], [3.0], [None], [5.0], [7.0]], most=3)
    assert (columns, values) == ([2, 4, 5], [[2.0], [5.0], [7.0]])


def test_kept_shares_by_epoch_and_as_measured():
    lines = [
        {"step": 1, "epoch": 1, "dyt_rates": [0.2, 0.6]},
        {"step": 2, "epoch": 1, "dyt_rates": [0.4, 0.6]},
        {"step": 3, "epoch": 2, "dyt_rates": [0.5, 0.5]},
    ]
    training, inference = activation.draw(run_with(steps=lines, skipping=SKIPPING), "run")
    assert training.table.head == ("Gate", "Epoch 1", "Epoch 2")
    assert training.table.rows == (
        ("0 mlp", "30.0\u00a0%", "50.0\u00a0%"),
        ("1 mlp", "60.0\u00a0%", "50.0\u00a0%"),
    )
    assert inference.lead == (
        "Over 24 images the gates keep 50.0\u00a0% of the patch tokens. Inference runs 700 FLOPs (0.70 of plain) per "
        "image; the plain backbone 1 kFLOPs, the tuned model with everything computed and masked 1.01 kFLOPs. In "
        "batches of 8 it makes 120 (1.20 of plain) images per second; plain 100, masked 90."
    )
    assert inference.table.rows[3] == ("gate 0 mlp", "", "", "25.0\u00a0%")
    full = 246
    bars = [r for r in ElementTree.fromstring(inference.drawing).iter("rect") if "heat" in r.get("class", "")]
    assert [float(bar.get("width", "")) for bar in bars] == [full * 0.25, full * 0.75]


def test_chosen_channels_are_coloured_and_measured():
    site = {"role": "blocks.0.middle", "scores": [3.0, 1.0, 4.0, 0.0], "chosen": [0, 2]}
    (picture,) = channel_scores.draw(run_with("channel_scores", {"sites": [site]}), "run")
    assert picture.table.rows == (("blocks.0.middle", "4", "2", "4", "3", "96.2\u00a0%"),)
    paths = {p.get("class"): p.get("d", "") for p in ElementTree.fromstring(picture.drawing).iter("path")}
    assert paths["heat tone-1"].count("M") == paths["heat tone-5"].count("M") == 2
    assert "v-30.0" in paths["heat tone-1"], "the highest score fills its row"


def test_pruned_prompts_are_struck_out():
    (picture,) = pruned_prompts.draw(run_with("pruned_prompts", PRUNED), "run")
    assert picture.table.rows == (
        ("0", "0.5", "yes", "1", "0.1, 0.2"),
        ("1", "-0.1", "no", "0", "0.3, 0.4"),
    )
    root = ElementTree.fromstring(picture.drawing)
    strikes = [path.get("d", "") for path in root.iter("path") if path.get("class") == "strike"]
    assert len(strikes) == 2, "the second prompt as a whole, and a segment of the first"
    assert "1 of 2 prompts and 1 of 4 segments were kept" in (root.get("aria-label") or "")
    assert "by how much the loss rises without it" in picture.lead


def test_a_pyramid_stands_beside_its_images():
    (picture,) = pyramid_maps.draw(run_with("pyramid_maps", {"stages": [STAGE]}), "run")
    images = list(ElementTree.fromstring(picture.drawing).iter("image"))
    assert [image.get("href", "")[:15] for image in images] == ["data:image/jpeg", "data:image/png;"] * 2
    assert images[1].get("href") != images[3].get("href")
    assert picture.table.rows == (("4", "16", "2 x 2", "40.0\u00a0%"),)
    assert "<cat & dog>" in [title.text for title in ElementTree.fromstring(picture.drawing).iter("title")]
    assert "<cat" not in picture.drawing, "names are escaped"


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (
            "channel_scores",
            {"sites": [{"role": "a", "scores": [1.0], "chosen": [1]}]},
            "numbers of scored channels",
        ),
        (
            "channel_scores",
            {"sites": [{"role": "a", "scores": ["x"], "chosen": [0]}]},
            "scores[0]' should be a finite",
        ),
        ("pruned_prompts", PRUNED | {"kept_tokens": [1]}, "one score per prompt"),
        ("pruned_prompts", PRUNED | {"segments": [[1.0], [1.0, 2.0]]}, "one score per prompt"),
        ("pruned_prompts", PRUNED | {"segments": [1, 2]}, "segments[0]' should be a list"),
        ("pyramid_maps", {"stages": [STAGE | {"size": [2]}]}, "size' should be two whole numbers"),
        ("pyramid_maps", {"stages": [STAGE | {"maps": ["00", "00"]}]}, "texts of 8 hexadecimal digits"),
        (
            "pyramid_maps",
            {"stages": [STAGE | {"maps": ["00ff00ff"]}]},
            "tells of 1 images and the file holds 2",
        ),
    ],
)
def test_values_that_cannot_be_drawn(kind, values, message):
    with pytest.raises(RunError, match=re.escape(message)):
        draw_all(run_with(kind, values), "run")


def test_every_kind_draws_nothing_of_a_run_that_logged_nothing():
    assert len(KINDS) == 6
    assert draw_all(run_with(), "run") == ()
