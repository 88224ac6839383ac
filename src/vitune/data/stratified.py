"""Holding out validation images where the data name none: seeded, stratified, by the names alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from vitune.data.listing import Layout, Listing
from vitune.errors import ConfigError, DataError
from vitune.randomness import derive_seed

_RULE = "of each class, the round(fraction * n) images whose hash of (seed, name) is smallest"


def check_val_fraction(val_fraction: float) -> None:
    """Raise ConfigError unless the fraction is at least 0 and below 1."""
    if not 0 <= val_fraction < 1:
        raise ConfigError(f"val_fraction must be at least 0 and below 1, not {val_fraction}.")


def hold_out(
    layout: Layout, val_fraction: float, seed: int, *, part_of: Callable[[str], str] = lambda name: ""
) -> Layout:
    """Split the training images into train and val.

    Of each class (in each part of the data) the share `val_fraction`, rounded, at least one image where there are two
    and never all, goes to val. Which ones depends on the seed and each image's own name, so an image added later moves
    few others.

    Args:
        layout: A layout with "train" and without "val".
        val_fraction: The share, as `check_val_fraction` allows; 0 holds out nothing.
        seed: Seed of the choice.
        part_of: The part of the data that an image is in, by its name; one part if not given.

    Returns:
        The layout with both listings, and with the rule and both lists of names in its `rule`.

    Raises:
        DataError: If no class has two images, so that nothing can be held out.
    """
    train = layout.listings["train"]
    if val_fraction == 0:
        return replace(layout, rule={**layout.rule, "validation": {"rule": "none"}})
    strata: dict[tuple[str, str], list[int]] = defaultdict(list)
    for position in train.positions:
        strata[part_of(train.images.name(position)), train.classes[position]].append(position)
    held: set[int] = set()
    for positions in strata.values():
        count = min(max(round(val_fraction * len(positions)), 1), len(positions) - 1)
        ranked = sorted(
            positions, key=lambda position: derive_seed(seed, "hold-out", train.images.name(position))
        )
        held.update(ranked[:count])
    if not held:
        raise DataError(
            f"every class of '{layout.path}' has one training image only, so none can be held out for "
            f"validation; set val_fraction to 0 or add images."
        )
    kept = train.subset([position for position in train.positions if position not in held])
    val = train.subset([position for position in train.positions if position in held])
    rule = {**layout.rule, "validation": _describe(kept, val, val_fraction, seed)}
    return replace(layout, listings={**layout.listings, "train": kept, "val": val}, rule=rule)


def _describe(train: Listing, val: Listing, val_fraction: float, seed: int) -> dict[str, Any]:
    return {
        "rule": _RULE,
        "seed": seed,
        "val_fraction": val_fraction,
        "train": train.names(),
        "val": val.names(),
    }
