from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Save = Callable[..., Path]


@pytest.fixture
def save() -> Save:
    """Write a small image whose pixels depend on its path alone."""

    def write(path: Path, size: tuple[int, int] = (12, 10)) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(sum(path.as_posix().encode())).integers(
            0, 256, (*size[::-1], 3), np.uint8
        )
        Image.fromarray(pixels).save(path)
        return path

    return write


@pytest.fixture
def class_folders(save: Save) -> Callable[..., Path]:
    """Make folders of `count` images for each class."""

    def make(root: Path, classes: Iterable[str] = ("ant", "bee"), count: int = 5) -> Path:
        for name in classes:
            for number in range(count):
                save(root / name / f"{number}.png")
        return root

    return make


@pytest.fixture
def vtab(tmp_path: Path, save: Save) -> Path:
    """A VTAB-1k folder in small: 6 + 2 + 4 images of 2 classes with names."""
    counts = {"train800.txt": 6, "val200.txt": 2, "test.txt": 4}
    number, lines = 0, {}
    for name, count in counts.items():
        lines[name] = []
        for label in range(count):
            save(tmp_path / "images" / f"{number}.png")
            lines[name].append(f"images/{number}.png {label % 2}\n")
            number += 1
    lines["train800val200.txt"] = lines["train800.txt"] + lines["val200.txt"]
    for name, content in lines.items():
        (tmp_path / name).write_text("".join(content))
    (tmp_path / "classes.txt").write_text("wasp\nbee\n")
    return tmp_path


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data, which lies outside the repository."""
    root = Path(__file__).parents[3]
    folder = (root / os.environ.get("VITUNE_SHARED", "../shared") / "data").resolve()
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set VITUNE_SHARED")
    return folder


@pytest.fixture(scope="session")
def unpacked(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Unpack one archive of the real data."""

    def unpack(name: str) -> Path:
        folder = tmp_path_factory.mktemp(name)
        with tarfile.open(shared_data / f"{name}.tar") as archive:
            archive.extractall(folder, filter="data")
        return folder

    return unpack
