"""A few training images of each class: drawn by a rule that every method shares, or read from published lists.

The lists are those of SPT's and NOAH's repositories (ziplab/SPT @ e385f67, `data/few-shot`): below `annotations/`,
`train_meta.list.num_shot_K.seed_S`, `val_meta.list` and `test_meta.list`, lines `PATH LABEL`. Their folders for domain
generalisation (ImageNet-A, -R, -Sketch, V2) have a `val_meta.list` alone, which is tested on; its labels are those of
ImageNet.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from vitune.data.classes import read_classes_file
from vitune.data.listing import Layout, Listing
from vitune.data.vtab import read_list
from vitune.errors import ConfigError, DataError
from vitune.randomness import derive_seed

_FOLDER = "annotations"
_TRAIN = re.compile(r"train_meta\.list\.num_shot_(\d+)\.seed_(\d+)")
_VAL, _TEST = "val_meta.list", "test_meta.list"
# ImageNet's validation list is its test split; this one, of training images, is there to choose settings on.
_IMAGENET_VAL = "unofficial_val_list_4_shot16seed0"
# Where the images of a list may lie; the first folder that has the list's first image.
_ROOTS = {
    "train": ("images", "", "train"),
    "val": ("images", "", "train", "val"),
    "test": ("images", "", "val"),
}
_RULE = "of each class, the images whose hash of (seed, name) is smallest"


def check_shots(shots: int | None, shot_seed: int) -> None:
    """Raise ConfigError unless the number of shots is none or at least 1, and the seed an integer from 0."""
    if shots is not None and shots < 1:
        raise ConfigError(f"shots must be at least 1, not {shots}.")
    if shot_seed < 0:
        raise ConfigError(f"shot_seed must be at least 0, not {shot_seed}.")


def take_shots(layout: Layout, shots: int, shot_seed: int) -> Layout:
    """Keep a few training images of each class, drawn without replacement.

    Which ones is a function of the data and the seed alone, so all methods that are compared on them train on the same
    images.

    Args:
        layout: A layout with "train".
        shots: Images of each class.
        shot_seed: Seed of the draw.

    Returns:
        The layout with fewer training images, and with the rule and their names in its `rule`.

    Raises:
        DataError: If a class has fewer images; names it.
    """
    train = layout.listings["train"]
    by_class: dict[str, list[int]] = defaultdict(list)
    for position in train.positions:
        by_class[train.classes[position]].append(position)
    drawn: set[int] = set()
    for name, positions in by_class.items():
        if len(positions) < shots:
            raise DataError(
                f"the class '{name}' of '{layout.path}' has {len(positions)} training images, "
                f"fewer than shots {shots}; use {min(map(len, by_class.values()))} or fewer."
            )
        ranked = sorted(positions, key=lambda p: derive_seed(shot_seed, "few-shot", train.images.name(p)))
        drawn.update(ranked[:shots])
    kept = train.subset([position for position in train.positions if position in drawn])
    rule = {"rule": _RULE, "shots": shots, "seed": shot_seed, "train": kept.names()}
    return replace(
        layout, listings={**layout.listings, "train": kept}, rule={**layout.rule, "few_shot": rule}
    )


def is_few_shot_folder(folder: Path) -> bool:
    """Whether published lists lie in this folder, of few shots or to test on."""
    return bool(published(folder)) or any((folder / _FOLDER / name).is_file() for name in (_VAL, _TEST))


def published(folder: Path) -> dict[tuple[int, int], Path]:
    """(shots, seed) to list."""
    if not (folder / _FOLDER).is_dir():
        return {}
    found = {_TRAIN.fullmatch(path.name): path for path in sorted((folder / _FOLDER).iterdir())}
    return {(int(match[1]), int(match[2])): path for match, path in found.items() if match}


def read_few_shot_folder(folder: Path, shots: int | None, shot_seed: int) -> Layout:
    """Read the lists of a data set.

    An image that a list names twice counts once. Where there is no test list (ImageNet), the validation list is the
    test split, and `unofficial_val_list_4_shot16seed0`, less the images that are trained on, the validation split.

    Args:
        folder: The folder of `annotations/` and of the images.
        shots: Images of each class; None leaves out the training split.
        shot_seed: Which of the drawn lists.

    Raises:
        ConfigError: If there is no list of so many shots and that seed; names those there are.
        DataError: If a list has a line that is not an image and a label.
    """
    declared = read_classes_file(folder)
    lists = {split: folder / _FOLDER / name for split, name in (("val", _VAL), ("test", _TEST))}
    files = {split: path for split, path in lists.items() if path.is_file()}
    if "test" not in files and "val" in files:
        files["test"] = files.pop("val")
    if shots is not None:
        known = published(folder)
        if (shots, shot_seed) not in known:
            there = ", ".join(f"{k} (seed {seed})" for k, seed in sorted(known)) or "none"
            raise ConfigError(
                f"'{folder}' has no list of {shots} shots with seed {shot_seed}; it has: {there}."
            )
        files = {"train": known[shots, shot_seed], **files}
        if "val" not in files and (folder / _FOLDER / _IMAGENET_VAL).is_file():
            files["val"] = folder / _FOLDER / _IMAGENET_VAL
    listings = {split: _once(_read(folder, path, split, declared)) for split, path in files.items()}
    if "val" in files and files["val"].name == _IMAGENET_VAL:
        listings["val"] = _without(listings["val"], listings["train"])
    rule = {"rule": "lists", "lists": {split: f"{_FOLDER}/{path.name}" for split, path in files.items()}}
    return Layout("few-shot", folder, listings, declared, rule)


def _read(folder: Path, path: Path, split: str, declared: tuple[str, ...] | None) -> Listing:
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    first = next((line.rsplit(maxsplit=1)[0].strip() for line in lines if line.strip()), "")
    for root in _ROOTS[split]:
        if first and (folder / root / first).is_file():
            return read_list(path, folder / root, declared)
    return read_list(path, folder / _ROOTS[split][0], declared)  # says which image is missing


def missing(
    folder: Path, *, shots: Iterable[int] = (1, 2, 4, 8, 16), seeds: Iterable[int] = (0, 1, 2)
) -> list[str]:
    """What a folder of few-shot lists lacks, one sentence each.

    Args:
        folder: The folder of `annotations/` and of the images.
        shots: Numbers of images of each class that there must be a list for.
        seeds: Seeds that there must be a list for, with each of them.
    """
    lists = folder / _FOLDER
    if not lists.is_dir():
        return [
            f"there is no folder '{lists}'; it holds the lists of data/few-shot of the repository ziplab/SPT."
        ]
    known = published(folder)
    wanted = [(count, seed) for count in shots for seed in seeds]
    lacks = [
        f"'{lists}' has no list train_meta.list.num_shot_{count}.seed_{seed}."
        for count, seed in wanted
        if (count, seed) not in known
    ]
    if not any((lists / name).is_file() for name in (_VAL, _TEST)):
        lacks.append(f"'{lists}' has neither {_TEST} nor {_VAL}; there is nothing to test on.")
    for count, seed in [key for key in wanted if key in known]:
        try:
            read_few_shot_folder(folder, count, seed)
        except DataError as error:
            return [*lacks, str(error)]
    return lacks


def _without(listing: Listing, other: Listing) -> Listing:
    """The images that another listing does not have."""
    taken = {other.images.name(position) for position in other.positions}
    return listing.subset([p for p in listing.positions if listing.images.name(p) not in taken])


def _once(listing: Listing) -> Listing:
    seen: dict[str, int] = {}
    for position in listing.positions:
        seen.setdefault(listing.images.name(position), position)
    return listing.subset(list(seen.values()))
