from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from vitune.data.pixels import to_rgb


def rgb(image: Image.Image) -> list[list[tuple[int, int, int]]]:
    converted = to_rgb(image)
    assert converted.mode == "RGB"
    assert converted.size == image.size
    return [[tuple(pixel) for pixel in row] for row in np.asarray(converted).tolist()]


def grey(*values: int) -> list[list[tuple[int, int, int]]]:
    return [[(value, value, value) for value in values]]


def test_sixteen_bit_grey_is_scaled_not_clipped():
    values = np.array([[0, 257, 256 * 128, 65535]], np.uint16)
    assert rgb(Image.fromarray(values)) == grey(0, 1, 128, 255)


def test_thirty_two_bit_grey_in_the_16_bit_range_is_scaled():
    values = np.array([[0, 257, 256 * 128, 65535]], np.int32)
    assert rgb(Image.fromarray(values)) == grey(0, 1, 128, 255)


@pytest.mark.parametrize("value", [-1, 65536])
def test_integers_beyond_16_bit_are_refused(value: int):
    with pytest.raises(ValueError, match=r"outside the 16-bit range 0\.\.65535"):
        to_rgb(Image.fromarray(np.array([[0, value]], np.int32)))


def test_float_in_unit_range_is_scaled():
    assert rgb(Image.fromarray(np.array([[0, 0.5, 1]], np.float32))) == grey(0, 128, 255)


def test_float_up_to_255_is_rounded():
    assert rgb(Image.fromarray(np.array([[0, 7.6, 255]], np.float32))) == grey(0, 8, 255)


@pytest.mark.parametrize("value", [-0.1, 255.5, np.nan, np.inf])
def test_other_floats_are_refused(value: float):
    with pytest.raises(ValueError, match=r"neither within 0\.\.1 nor within 0\.\.255"):
        to_rgb(Image.fromarray(np.array([[0, value]], np.float32)))


def test_transparency_lies_over_white():
    image = Image.new("RGBA", (3, 1))
    image.putdata([(10, 20, 30, 255), (0, 0, 0, 0), (0, 0, 0, 128)])
    assert rgb(image) == [[(10, 20, 30), (255, 255, 255), (127, 127, 127)]]


def test_grey_with_alpha_lies_over_white():
    image = Image.new("LA", (2, 1))
    image.putdata([(40, 255), (40, 0)])
    assert rgb(image) == grey(40, 255)


def test_alpha_that_is_zero_everywhere_is_an_unused_channel():
    image = Image.new("RGBA", (2, 1), (10, 20, 30, 0))
    assert rgb(image) == [[(10, 20, 30), (10, 20, 30)]]


def test_palette_with_a_transparent_entry():
    image = Image.new("P", (2, 1))
    image.putpalette([1, 2, 3, 200, 100, 50])
    image.putdata([0, 1])
    assert rgb(image) == [[(1, 2, 3), (200, 100, 50)]]
    image.info["transparency"] = 0
    assert rgb(image) == [[(255, 255, 255), (200, 100, 50)]]


def test_rgb_with_a_transparent_colour():
    image = Image.new("RGB", (2, 1))
    image.putdata([(1, 2, 3), (4, 5, 6)])
    image.info["transparency"] = (1, 2, 3)
    assert rgb(image) == [[(255, 255, 255), (4, 5, 6)]]


def test_bilevel_grey_and_cmyk():
    assert rgb(Image.fromarray(np.array([[True, False]]))) == grey(255, 0)
    assert rgb(Image.fromarray(np.array([[3, 250]], np.uint8))) == grey(3, 250)
    assert rgb(Image.new("CMYK", (1, 1), (0, 255, 255, 0))) == [[(255, 0, 0)]]


def test_rgb_is_handed_on_unchanged():
    image = Image.new("RGB", (2, 2), (1, 2, 3))
    assert to_rgb(image) is image
