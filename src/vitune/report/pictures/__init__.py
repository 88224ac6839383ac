"""Pictures that explain what a method did in a run, drawn from what the run logged; nothing is computed again.

One file per kind, whose `draw` takes a run and the start of the ids it may use, and gives the pictures that the run's
log, result.json and pictures.json have the numbers for. A new one is a file here and its line in `KINDS`; what it needs
of a trained model a method gives by `Method.pictures`, and what it needs of every step by `Policy.log`.
"""

from __future__ import annotations

from collections.abc import Callable

from vitune.report.pictures import (
    activation,
    alast_steps,
    channel_scores,
    kept_patches,
    pruned_prompts,
    pyramid_maps,
)
from vitune.report.pictures._picture import Drawing, Picture, Table
from vitune.report.record import RunRecord

__all__ = ["KINDS", "Drawing", "Picture", "Table", "draw_all"]

KINDS: tuple[Callable[[RunRecord, str], tuple[Picture, ...]], ...] = (
    alast_steps.draw,
    activation.draw,
    kept_patches.draw,
    channel_scores.draw,
    pruned_prompts.draw,
    pyramid_maps.draw,
)


def draw_all(run: RunRecord, key: str) -> tuple[Picture, ...]:
    """All pictures of a run.

    Args:
        run: The run.
        key: Start of the ids of their elements; unique on the page.

    Raises:
        RunError: If a file of the run holds values of a wrong type.
    """
    return tuple(picture for draw in KINDS for picture in draw(run, key))
