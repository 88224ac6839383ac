"""ImageNet's 1,000 classes under their several names, and the sets on which ImageNet models are tested.

A model trained on ImageNet may call its classes by WordNet id (`n01440764`), by number (`0`) or by words
(`tench, Tinca tinca`); the folders of ImageNet-A, -R, -Sketch and -C are WordNet ids, those of ImageNetV2 numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from vitune.data.listing import Listing

CLASSES = 1000
# Sets of 200 of the classes, which are tested with these 200 logits alone (arXiv:1907.07174, arXiv:2006.16241).
RESTRICTED = {"imagenet-a": "imagenet_a_synsets.txt", "imagenet-r": "imagenet_r_synsets.txt"}
# Names in words differ between sources in a few classes (two are called crane).
_SAME_WORDS = 0.95


@cache
def wordnet_ids() -> tuple[str, ...]:
    """WordNet ids of the classes in the order of their labels."""
    return _lines("imagenet_synsets.txt")


def restricted_ids(name: str) -> frozenset[str]:
    """WordNet ids of the classes of a set of `RESTRICTED`."""
    return frozenset(_lines(RESTRICTED[name]))


def in_imagenet_order(class_names: Sequence[str]) -> tuple[str, ...] | None:
    """The names of a class map in the order of ImageNet's labels, or None if it is not ImageNet's 1,000 classes.

    Args:
        class_names: Names of a class map, in any order for ids and numbers, in the order of the labels for words.
    """
    if len(class_names) != CLASSES:
        return None
    own = set(class_names)
    if own == set(wordnet_ids()):
        return wordnet_ids()
    numbers = tuple(map(str, range(CLASSES)))
    if own == set(numbers):
        return numbers
    same = sum(ours == theirs for ours, theirs in zip(class_names, _words(), strict=True))
    return tuple(class_names) if same >= _SAME_WORDS * CLASSES else None


def renamed(listing: Listing, class_names: Sequence[str]) -> Listing:
    """The listing with its classes called as a model calls them.

    Unchanged if it calls them so already, or if either side is not known to be ImageNet's.

    Args:
        listing: Images of classes called by WordNet ids or numbers.
        class_names: The class map of the model.
    """
    own = {listing.classes[position] for position in listing.positions}
    if own <= set(class_names):
        return listing
    ordered = in_imagenet_order(class_names)
    if ordered is None:
        return listing
    indices = _indices(own)
    if indices is None:
        return listing
    return replace(listing, classes=[ordered[indices[n]] if n in indices else n for n in listing.classes])


def restricted_set(present: Iterable[str], class_names: Sequence[str]) -> str | None:
    """Which set of `RESTRICTED` has exactly these classes, or None.

    Args:
        present: The classes of some images, as the model calls them.
        class_names: The class map of the model.
    """
    ordered = in_imagenet_order(class_names)
    if ordered is None:
        return None
    ids = dict(zip(ordered, wordnet_ids(), strict=True))
    own = frozenset(ids[name] for name in set(present))
    return next((name for name in RESTRICTED if restricted_ids(name) == own), None)


def _indices(names: set[str]) -> dict[str, int] | None:
    """Name to ImageNet label, where all names are of one kind."""
    known = {name: index for index, name in enumerate(wordnet_ids())}
    if names <= known.keys():
        return known
    numbers = {str(index): index for index in range(CLASSES)}
    return numbers if names <= numbers.keys() else None


@cache
def _words() -> tuple[str, ...]:
    pairs = (line.split("\t", 1) for line in _lines("imagenet_synset_to_lemma.txt"))
    lemmas = {pair[0]: pair[-1] for pair in pairs}
    return tuple(lemmas[name] for name in wordnet_ids())


def _lines(name: str) -> tuple[str, ...]:
    """Lines of a table that timm ships."""
    spec = find_spec("timm")  # importing it takes seconds
    assert spec is not None  # timm is a dependency
    assert spec.submodule_search_locations
    path = Path(spec.submodule_search_locations[0]) / "data" / "_info" / name
    return tuple(path.read_text(encoding="utf-8").splitlines())
