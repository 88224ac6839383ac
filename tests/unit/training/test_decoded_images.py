from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vitune.training import decoded_images
from vitune.training.decoded_images import decode_images


@dataclass
class FewSamples:
    sizes: tuple[tuple[int, int], ...]

    @property
    def labels(self) -> list[int]:
        return list(range(len(self.sizes)))

    def __len__(self) -> int:
        return len(self.sizes)

    def image(self, index: int) -> Image.Image:
        width, height = self.sizes[index]
        pixels = np.zeros((height, width, 3), dtype=np.uint8)
        pixels[..., 0] = np.linspace(0, 255, width).astype(np.uint8)
        pixels[..., 1] = index
        return Image.fromarray(pixels)


SAMPLES: Any = FewSamples(((16, 16), (32, 16), (5, 9)))


def test_images_of_the_right_size_are_kept_bit_for_bit(tmp_path: Path):
    decoded = decode_images(SAMPLES, 16, 0, tmp_path / "spill")
    assert decoded.pixels.shape == (3, 3, 16, 16)
    assert decoded.pixels.dtype == torch.uint8
    assert decoded.labels.tolist() == [0, 1, 2]
    expected = torch.from_numpy(np.array(SAMPLES.image(0))).permute(2, 0, 1)
    assert torch.equal(decoded.pixels[0], expected)
    assert not (tmp_path / "spill").exists()


def test_other_shapes_are_cropped_at_the_centre(tmp_path: Path):
    wide = decode_images(SAMPLES, 16, 0, tmp_path / "spill").pixels[1]
    assert (wide[1] == 1).all()
    # The middle 16 of 32 columns of a ramp from 0 to 255.
    assert 60 < wide[0, 0, 0] < 70
    assert 185 < wide[0, 0, -1] < 195


def test_workers_change_nothing(tmp_path: Path):
    alone = decode_images(SAMPLES, 8, 0, tmp_path / "spill")
    assert torch.equal(alone.pixels, decode_images(SAMPLES, 8, 1, tmp_path / "spill").pixels)


def test_pixels_go_to_a_file_where_memory_is_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    expected = decode_images(SAMPLES, 16, 0, tmp_path / "spill")
    little = SimpleNamespace(virtual_memory=lambda: SimpleNamespace(available=1000))
    monkeypatch.setattr(decoded_images, "psutil", little)
    spilled = decode_images(SAMPLES, 16, 0, tmp_path / "spill")
    assert torch.equal(spilled.pixels, expected.pixels)
    assert (tmp_path / "spill").read_bytes() == expected.pixels.numpy().tobytes()


def test_to_the_same_device_copies_nothing(tmp_path: Path):
    decoded = decode_images(SAMPLES, 16, 0, tmp_path / "spill")
    assert decoded.to(torch.device("cpu")).pixels.data_ptr() == decoded.pixels.data_ptr()
