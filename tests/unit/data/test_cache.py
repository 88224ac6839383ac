from __future__ import annotations

import numpy as np
import pytest

from vitune.data import cache, open_source
from vitune.data.cache import DecodedImages, open_cache
from vitune.errors import DataError


@pytest.fixture
def train(tmp_path, save):
    for number, size in enumerate([(12, 10), (3, 7), (1, 1), (20, 4)]):
        save(tmp_path / "a" / f"{number}.png", size)
        save(tmp_path / "b" / f"{number}.jpg", size)
    return open_source(tmp_path, val_fraction=0).split("train")


BYTES = 2 * 3 * (120 + 21 + 1 + 80)


def test_pixels_are_those_of_the_samples(train):
    decoded = DecodedImages(train)
    assert decoded.nbytes == BYTES
    for index in range(8):
        image = decoded.image(index)
        assert image.mode == "RGB"
        assert np.array_equal(np.asarray(image), np.asarray(train.image(index)))


def test_changing_an_image_does_not_change_the_cache(train):
    decoded = DecodedImages(train)
    before = decoded.image(0).copy()
    decoded.image(0).paste((0, 0, 0), (0, 0, 12, 10))
    assert decoded.image(0) == before


def test_auto_decodes_what_fits(train):
    assert open_cache(train, "auto", BYTES) is not None
    assert open_cache(train, "auto", BYTES - 1) is None
    assert open_cache(train, True, 0) is not None
    assert open_cache(train, False) is None


def test_limit_follows_the_memory_of_the_machine(train, monkeypatch):
    monkeypatch.setattr(cache.os, "sysconf", lambda name: {"SC_PAGE_SIZE": 4, "SC_PHYS_PAGES": BYTES}[name])
    assert open_cache(train, "auto") is not None
    monkeypatch.setattr(cache.os, "sysconf", lambda name: {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": BYTES}[name])
    assert open_cache(train, "auto") is None


def test_nothing_to_cache(train):
    assert open_cache(train.subset([]), True) is None


@pytest.mark.parametrize("mode", ["auto", True])
def test_broken_image_is_named(train, tmp_path, mode):
    (tmp_path / "b" / "3.jpg").write_text("text")
    with pytest.raises(DataError, match=r"b/3\.jpg' cannot be read"):
        open_cache(train, mode)
