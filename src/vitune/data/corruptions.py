"""ImageNet-C: `CORRUPTION/SEVERITY/CLASS/*.JPEG`, to test trained models on.

Hendrycks and Dietterich (arXiv:1903.12261, hendrycks/robustness): 15 corruptions, and 4 more for validation, in
severities 1 to 5. The archives unpack to the corruptions, which some keep in their groups
(`noise/gaussian_noise/1/...`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vitune.data.folder import visible_folders
from vitune.data.images import walk_images
from vitune.data.listing import FileImages, Layout, Listing
from vitune.errors import DataError

# The corruptions of the benchmark, with AlexNet's mean error over the five severities, which the mean corruption error
# is measured in (hendrycks/robustness, README).
ALEXNET_ERROR = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}
EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
SEVERITIES = ("1", "2", "3", "4", "5")
_KNOWN = frozenset([*ALEXNET_ERROR, *EXTRA])
_GROUPS = ("noise", "blur", "weather", "digital", "extra")


@dataclass(frozen=True)
class Part:
    """Images of one corruption in one severity.

    Attributes:
        corruption: The corruption.
        severity: "1" to "5".
        folder: Their folder of class folders, relative to the data.
    """

    corruption: str
    severity: str
    folder: str


def parts_of(folder: Path) -> list[Part]:
    """The parts that lie in a folder, sorted by corruption and severity; none if it is not ImageNet-C."""
    below = visible_folders(folder)
    places = {name: name for name in below if name in _KNOWN}
    for group in _GROUPS:
        if group in below:
            places |= {n: f"{group}/{n}" for n in visible_folders(folder / group) if n in _KNOWN}
    return [
        Part(corruption, severity, f"{place}/{severity}")
        for corruption, place in sorted(places.items())
        for severity in SEVERITIES
        if (folder / place / severity).is_dir()
    ]


def part_of(name: str) -> tuple[str, str]:
    """Corruption and severity of an image, from its path below the data."""
    pieces = name.split("/")
    at = 1 if pieces[0] in _GROUPS and pieces[0] not in _KNOWN else 0
    return pieces[at], pieces[at + 1]


def read_corruptions(folder: Path) -> Layout:
    """Read all parts as one test split.

    Args:
        folder: The folder of the corruptions.

    Raises:
        DataError: If a part holds no class folders with images.
    """
    names: list[str] = []
    classes: list[str] = []
    parts = parts_of(folder)
    for part in parts:
        before = len(names)
        for class_folder in visible_folders(folder / part.folder):
            inside = walk_images(folder / part.folder / class_folder)
            names += [f"{part.folder}/{class_folder}/{name}" for name in inside]
            classes += [class_folder] * len(inside)
        if len(names) == before:
            raise DataError(
                f"'{folder / part.folder}' holds no class folders with images; fill or remove it."
            )
    rule = {"rule": "corruptions", "parts": [f"{part.corruption}/{part.severity}" for part in parts]}
    return Layout(
        "corruptions", folder, {"test": Listing.all_of(FileImages(folder, names), classes)}, rule=rule
    )
