"""A pass over images that finds those that cannot be read, before anything counts on their number."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from vitune.data.listing import ImageStore, Listing
from vitune.errors import DataError

_Result = TypeVar("_Result")
_AHEAD = 256


def drop_bad_images(listing: Listing) -> tuple[Listing, dict[str, str]]:
    """Decode every image and leave out those that fail.

    Args:
        listing: The images.

    Returns:
        The listing without them, and the error message of each by its name.
    """
    errors = in_threads(lambda position: _error_of(listing.images, position), list(listing.positions))
    if not any(errors):
        return listing, {}
    bad = {
        listing.images.name(position): error
        for position, error in zip(listing.positions, errors, strict=True)
        if error is not None
    }
    good = [position for position, error in zip(listing.positions, errors, strict=True) if error is None]
    return listing.subset(good), bad


def in_threads(work: Callable[[int], _Result], positions: list[int]) -> list[_Result]:
    """Apply `work` to each position, in one thread for each core (Pillow decodes outside the GIL)."""
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        # In slices, so that an error at the start does not wait for all the rest to be tried.
        return [
            result
            for start in range(0, len(positions), _AHEAD)
            for result in pool.map(work, positions[start : start + _AHEAD])
        ]


def _error_of(images: ImageStore, position: int) -> str | None:
    try:
        images.image(position)
    except DataError as error:
        return str(error)
    return None
