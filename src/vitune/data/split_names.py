"""The words by which data name their splits."""

from __future__ import annotations

import re

_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
KNOWN_SPLITS = ("train", "val", "valid", "validation", "dev", "test")


def split_of_word(word: str) -> str | None:
    """ "train", "val" or "test" for a word that means it, in any case, or None."""
    return _WORDS.get(word.strip().lower())


def split_of_file(stem: str) -> str | None:
    """The split named at the start of a shard's file name (`train-00000-of-00004` is "train"), or None."""
    match = re.match(r"[A-Za-z]+", stem)
    return split_of_word(match.group()) if match else None
