"""The data sets of the PVP benchmark, as folders of split folders of class folders.

Made of files that are on disk already, by rules of names and one seed, so that every machine has the same lists.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.data_sets import data_set
from vitune.randomness import derive_seed

# Split, class, name of the image, its bytes.
Entry = tuple[str, str, str, bytes]
_SPLITS = ("train", "val", "test")


def prepare(
    root: Path, work: Path, *, modules_images: int, test_images: int | None = None
) -> dict[str, Path]:
    """Write what is not there yet.

    - `tiny-all`: about `modules_images` of tiny-imagenet's training images, over all classes but one, to pre-train on.
      With 200 classes the head would be the backbone's own, already trained, and leave the modules little to learn.
    - `tiny-half`: as many over one half of the classes.
    - `tiny-other`: the other half: 8 training, 2 validation and 10 test images of each class.
    - `caltech101`: the classes with 9 or more of the 1,000 training images; one of each is validation, 8 or more are
      there to draw shots from; test images as they are.
    - `pacs`: of each class and domain 24 images to draw from, 2 to validate, 20 to test.

    Args:
        root: Holds `caltech101`, `pacs` (folders or tar files) and `tiny-imagenet` (Parquet).
        work: Where the folders go.
        modules_images: Images to pre-train on.
        test_images: At most so many test images of each data set; None is all.

    Returns:
        Name to folder.
    """
    tiny = root / "tiny-imagenet"
    ranked = _ranked(map(str, range(200)), "half")
    every, half, other = set(ranked[:199]), set(ranked[:100]), set(ranked[100:])
    makers: dict[str, Callable[[], Iterator[Entry]]] = {
        f"tiny-all-{modules_images}": lambda: _tiny(tiny, every, train=modules_images // 199, val=5),
        f"tiny-half-{modules_images}": lambda: _tiny(tiny, half, train=modules_images // 100, val=10),
        "tiny-other": lambda: _tiny(tiny, other, train=8, val=2, test=10),
        "caltech101": lambda: _caltech(data_set("caltech101", root, work / "unpacked")),
        "pacs": lambda: _pacs(data_set("pacs", root, work / "unpacked")),
    }
    folders = {}
    for name, make in makers.items():
        folder = work / (name if test_images is None else f"{name}-{test_images}")
        if not folder.is_dir():
            _write(folder, _at_most(make(), test_images))
        folders[name.removesuffix(f"-{modules_images}")] = folder
    return folders


def _tiny(folder: Path, classes: set[str], *, train: int, val: int, test: int = 0) -> Iterator[Entry]:
    """Training images from the shards in their order, validation and test images from the validation file."""
    for files, wanted in (
        (sorted(folder.glob("train-*.parquet")), {"train": train}),
        ([folder / "val.parquet"], {"val": val, "test": test}),
    ):
        places = [split for split, count in wanted.items() for _ in range(count)]
        seen: dict[str, int] = defaultdict(int)
        for file in files:
            table = pq.read_table(file, columns=["image", "label"])
            for row, label in enumerate(map(str, table["label"].to_pylist())):
                if label in classes and seen[label] < len(places):
                    split = places[seen[label]]
                    seen[label] += 1
                    encoded = table["image"][row]["bytes"].as_py()
                    yield split, label, f"{file.stem}-{row:05d}.webp", encoded


def _caltech(folder: Path) -> Iterator[Entry]:
    names = (folder / "classes.txt").read_text().splitlines()
    by_class: dict[str, list[str]] = defaultdict(list)
    for name, label in _lines(folder / "train800val200.txt"):
        by_class[label].append(name)
    kept = {label: _ranked(images, "caltech") for label, images in by_class.items() if len(images) >= 9}
    for label, images in kept.items():
        for place, name in enumerate(images):
            yield (
                "train" if place else "val",
                names[int(label)],
                Path(name).name,
                (folder / name).read_bytes(),
            )
    for name, label in _lines(folder / "test.txt"):
        if label in kept:
            yield "test", names[int(label)], Path(name).name, (folder / name).read_bytes()


def _pacs(folder: Path) -> Iterator[Entry]:
    places = ["train"] * 24 + ["val"] * 2 + ["test"] * 20
    for domain in sorted(path for path in folder.iterdir() if path.is_dir()):
        for label in sorted(path for path in domain.iterdir() if path.is_dir()):
            names = _ranked((path.name for path in label.iterdir()), f"pacs/{domain.name}/{label.name}")
            for split, name in zip(places, names, strict=False):
                yield split, label.name, f"{domain.name}-{name}", (label / name).read_bytes()


def _at_most(entries: Iterable[Entry], test_images: int | None) -> Iterator[Entry]:
    """In a random order that is always the same, the test images are those of many classes."""
    if test_images is None:
        yield from entries
        return
    test = []
    for entry in entries:
        if entry[0] == "test":
            test.append(entry)
        else:
            yield entry
    yield from sorted(test, key=lambda entry: derive_seed(0, "pvp", entry[2]))[:test_images]


def _write(folder: Path, entries: Iterable[Entry]) -> None:
    """Write a folder that appears when it is complete."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        for split, label, name, encoded in entries:
            place = partial / split / label
            place.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(encoded)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _lines(path: Path) -> list[tuple[str, str]]:
    return [(name, label) for name, label in (line.split() for line in path.read_text().splitlines())]


def _ranked(names: Iterable[str], word: str) -> list[str]:
    return sorted(names, key=lambda name: derive_seed(0, "pvp", f"{word}/{name}"))
