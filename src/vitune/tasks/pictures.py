"""`pictures.json`: what methods have to show of a trained model on a few images, which the report draws.

`{"format": 1, "split": "val", "images": [{"name": "0001.png", "label": 3, "predicted": 3, "jpeg": BASE64}, ...],
"pictures": [{"method": "dyt", "kind": "kept_patches", "values": {...}}, ...]}`
"""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vitune.data import Preprocessing, Samples, build_transform
from vitune.training.modes import evaluation_mode
from vitune.tuned import Tuned

FORMAT = 1
SHOWN = 6  # images
_THUMBNAIL, _QUALITY = 96, 85


def picture_values(tuned: Tuned, samples: Samples, preprocessing: Preprocessing) -> dict[str, Any] | None:
    """What the file of pictures holds, or None where no method has something to show.

    Args:
        tuned: The trained model.
        samples: The split that the images are taken from, evenly spaced.
        preprocessing: What images are to look like.

    Raises:
        DataError: If an image cannot be read.
    """
    chosen = evenly_spaced(len(samples), SHOWN)
    images = load_images(samples, chosen, preprocessing).to(next(tuned.model.parameters()).device)
    with evaluation_mode(tuned.model):
        found = [
            {"method": method.name, "kind": kind, "values": values}
            for method in tuned.methods
            for kind, values in method.pictures(tuned, images).items()
        ]
        if not found:
            return None
        with torch.no_grad():
            predicted = tuned(images).argmax(1).tolist()
    shown = [
        {
            "name": samples.name(index),
            "label": samples.labels[index],
            "predicted": guess,
            "jpeg": _jpeg(image, preprocessing),
        }
        for index, guess, image in zip(chosen, predicted, images.cpu(), strict=True)
    ]
    return {"format": FORMAT, "split": samples.split, "images": shown, "pictures": found}


def evenly_spaced(count: int, wanted: int) -> list[int]:
    """So many of the numbers below `count`, or all of them, with equal gaps: images of as many classes as can be."""
    wanted = min(wanted, count)
    return [(2 * i + 1) * count // (2 * wanted) for i in range(wanted)]


def load_images(samples: Samples, chosen: list[int], preprocessing: Preprocessing) -> Tensor:
    """Images (n, 3, height, width) as evaluation sees them.

    Args:
        samples: The split.
        chosen: Which of its images.
        preprocessing: What images are to look like.
    """
    transform = build_transform(preprocessing, train=False)
    return torch.stack([transform(samples.image(index)) for index in chosen])


def _jpeg(image: Tensor, preprocessing: Preprocessing) -> str:
    """An image (3, height, width) as the model saw it, small, in base64."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (preprocessing.mean, preprocessing.std))
    pixels = ((image * std + mean).clamp(0, 1) * 255).round().to(torch.uint8)
    picture = Image.fromarray(np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()))
    picture.thumbnail((_THUMBNAIL, _THUMBNAIL), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=_QUALITY, optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
