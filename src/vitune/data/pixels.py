"""What any Pillow image mode becomes as 8-bit RGB.

The rules that Pillow's own `convert("RGB")` does not follow, and why:

- 16-bit grey is divided by 257. Pillow clips it, so that a microscope or depth image turns white.
- Float grey holds values in 0..1 (scaled by 255) or in 0..255 (rounded); anything else has no agreed meaning.
- Transparency is laid over white, as viewers show it: the colour stored below a transparent pixel is
  arbitrary, often black. A picture whose alpha is zero everywhere was written with an unused channel and
  keeps its colours.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

_WHITE = (255, 255, 255, 255)


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a decoded image to 8-bit RGB by the rules of this module.

    Args:
        image: An image in any mode that Pillow reads.

    Returns:
        An image in mode RGB and of the same size.

    Raises:
        ValueError: If the values of an integer or float image lie outside the ranges above, or Pillow cannot
            convert the mode.
    """
    if image.mode.startswith("I"):
        return _from_integers(image)
    if image.mode == "F":
        return _from_floats(image)
    if image.has_transparency_data:
        return _over_white(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_integers(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise ValueError(f"its values run from {low} to {high}, outside the 16-bit range 0..65535")
    scaled = (values.astype(np.uint32) * 255 + 32767) // 65535
    return Image.fromarray(scaled.astype(np.uint8)).convert("RGB")


def _from_floats(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 255):  # this way round, nan is refused too
        raise ValueError(
            f"its float values run from {low:g} to {high:g}, neither within 0..1 nor within 0..255"
        )
    scaled = values * 255 if high <= 1 else values
    return Image.fromarray(np.round(scaled).astype(np.uint8)).convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    rgba = image.convert("RGBA")
    if rgba.getchannel("A").getextrema()[1] == 0:
        return rgba.convert("RGB")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, _WHITE), rgba).convert("RGB")
