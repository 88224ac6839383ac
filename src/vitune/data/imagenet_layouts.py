"""Whether ImageNet and the sets that test its models are there, folder by folder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from vitune.data.corruptions import ALEXNET_ERROR, SEVERITIES, parts_of
from vitune.data.folder import visible_folders
from vitune.data.imagenet import CLASSES, restricted_ids, wordnet_ids

_SHOWN = 3


def missing_train(folder: Path) -> list[str]:
    """What ImageNet's own folder lacks: `train/` and `val/` of folders called by WordNet id."""
    if not folder.is_dir():
        return [f"there is no folder '{folder}'; it holds train/n01440764/*.JPEG and val/n01440764/*.JPEG."]
    return [
        sentence for split in ("train", "val") for sentence in _lacks_classes(folder / split, wordnet_ids())
    ]


def missing_variant(folder: Path, name: str) -> list[str]:
    """What a set that tests ImageNet models lacks.

    Args:
        folder: The folder of the class folders; of "imagenet-c" that of the corruptions.
        name: "imagenet-a", "imagenet-r", "imagenet-sketch", "imagenet-v2" or "imagenet-c".
    """
    if name == "imagenet-c":
        return _missing_corruptions(folder)
    if name == "imagenet-v2":
        return _lacks_classes(folder, map(str, range(CLASSES)))
    return _lacks_classes(
        folder, wordnet_ids() if name == "imagenet-sketch" else sorted(restricted_ids(name))
    )


def _missing_corruptions(folder: Path) -> list[str]:
    if not folder.is_dir():
        return [f"there is no folder '{folder}'; it holds CORRUPTION/SEVERITY/CLASS/*.JPEG."]
    parts = parts_of(folder)
    there = {(part.corruption, part.severity) for part in parts}
    lacks = []
    for corruption in ALEXNET_ERROR:
        gone = [severity for severity in SEVERITIES if (corruption, severity) not in there]
        if len(gone) == len(SEVERITIES):
            lacks.append(f"'{folder}' lacks the corruption '{corruption}'.")
        elif gone:
            lacks.append(f"'{folder}' lacks the corruption '{corruption}' in severity {', '.join(gone)}.")
    for part in parts:
        lacks += _lacks_classes(folder / part.folder, wordnet_ids())
    return lacks


def _lacks_classes(folder: Path, expected: Iterable[str]) -> list[str]:
    if not folder.is_dir():
        return [f"there is no folder '{folder}'; it holds one folder of images for each class."]
    there = set(visible_folders(folder))
    names = list(expected)
    gone = [name for name in names if name not in there]
    if not gone:
        return []
    shown = ", ".join(gone[:_SHOWN]) + (" and others" if len(gone) > _SHOWN else "")
    return [f"'{folder}' lacks {len(gone)} of {len(names)} class folders: {shown}."]
