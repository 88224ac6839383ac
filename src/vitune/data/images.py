"""Reading image files: every kind becomes an upright 8-bit RGB picture, and a broken one is named."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from PIL import ExifTags, Image, UnidentifiedImageError

from vitune.data.pixels import to_rgb
from vitune.errors import DataError

IMAGE_SUFFIXES = frozenset(
    [
        ".avif",
        ".bmp",
        ".gif",
        ".jfif",
        ".jpe",
        ".jpeg",
        ".jpg",
        ".pbm",
        ".pgm",
        ".png",
        ".pnm",
        ".ppm",
        ".tif",
        ".tiff",
        ".webp",
    ]
)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def is_image_name(name: str) -> bool:
    """Whether a file of this name counts as an image: an image suffix in any case, and not a hidden file."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def read_image(path: str | os.PathLike[str], *, origin: str | None = None) -> Image.Image:
    """Read an image file as RGB, rotated as its EXIF tag asks.

    `vitune.data.pixels` says what becomes of grey, 16-bit, float, palette, CMYK and transparent pictures. Of
    an animation the first frame is read.

    Args:
        path: The file.
        origin: Where the file is listed ("labels.csv, line 3"), for the error message.

    Raises:
        DataError: If the file cannot be read or decoded, or has more pixels than Pillow's
            `Image.MAX_IMAGE_PIXELS`; the message names the path and `origin`.
    """
    return _decode(os.fspath(path), _called(os.fspath(path), origin))


def decode_image(encoded: bytes, *, name: str) -> Image.Image:
    """Decode an image file that is held in memory, as `read_image` does.

    Args:
        encoded: The bytes of a JPEG, PNG, WebP ... file.
        name: What to call it in the error message.

    Raises:
        DataError: As `read_image`.
    """
    return _decode(io.BytesIO(encoded), f"image '{name}'")


def image_size(source: str | io.BytesIO, *, name: str) -> tuple[int, int]:
    """Width and height in pixels as stored, read from the header alone.

    Args:
        source: Path, or encoded bytes in a buffer.
        name: What to call it in the error message.

    Raises:
        DataError: If the header cannot be read.
    """
    try:
        with Image.open(source) as image:
            return image.size
    except Exception as error:
        raise _unreadable(f"image '{name}'", error) from error


def list_images(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """The image files among some files and folders.

    Args:
        paths: Files, taken as they are, and folders, searched with their sub-folders for visible files with
            an image suffix, in sorted order.

    Raises:
        DataError: If a path does not exist, or a folder holds no image.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_file():
            found.append(path)
        elif path.is_dir():
            inside = [path / name for name in walk_images(path)]
            if not inside:
                raise DataError(f"folder '{path}' holds no image; expected files such as .jpg or .png.")
            found.extend(inside)
        else:
            raise DataError(f"'{path}' does not exist; give image files or folders of images.")
    return found


def walk_images(folder: Path) -> list[str]:
    """Sorted paths, relative to `folder` and with '/', of all visible image files at or below it.

    Links are followed, and each folder is listed once, whatever circles they make.

    Raises:
        DataError: If a folder cannot be listed.
    """
    names: list[str] = []
    seen = {os.path.realpath(folder)}
    for parent, folders, files in os.walk(folder, followlinks=True, onerror=_cannot_list):
        relative = Path(parent).relative_to(folder)
        names += [(relative / name).as_posix() for name in files if is_image_name(name)]
        below = {name: os.path.realpath(os.path.join(parent, name)) for name in sorted(folders)}
        folders.clear()
        for name, real in below.items():
            if not name.startswith(".") and real not in seen:
                seen.add(real)
                folders.append(name)
    return sorted(names)


def _cannot_list(error: OSError) -> NoReturn:
    raise DataError(
        f"folder '{error.filename}' cannot be listed: {error.strerror}; check it and its rights."
    ) from error


def _decode(source: str | io.BytesIO, called: str) -> Image.Image:
    # Decoders of damaged files raise almost any class, from SyntaxError to IndexError; each is passed on as
    # ours.
    try:
        with Image.open(source) as image:
            _refuse_bomb(image)
            image.load()
            return to_rgb(_upright(image))
    except MemoryError:
        raise
    except Exception as error:
        raise _unreadable(called, error) from error


def _refuse_bomb(image: Image.Image) -> None:
    limit, pixels = Image.MAX_IMAGE_PIXELS, image.width * image.height
    if limit is not None and pixels > limit:
        raise ValueError(f"its {pixels:,} pixels exceed the limit of {limit:,} (PIL.Image.MAX_IMAGE_PIXELS)")


def _upright(image: Image.Image) -> Image.Image:
    # Not ImageOps.exif_transpose: it also rewrites the metadata and fails on files whose pixels are sound.
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except (SyntaxError, ValueError, TypeError, KeyError, EOFError, OSError, struct.error):
        orientation = 1  # without a legible rotation there is none
    turn = _TURNS.get(orientation)
    return image.copy() if turn is None else image.transpose(turn)


def _called(path: str, origin: str | None) -> str:
    return f"image '{path}'" + (f" ({origin})" if origin else "")


def _unreadable(called: str, error: Exception) -> DataError:
    if isinstance(error, UnidentifiedImageError):
        reason = "it is not an image in any known format"
    elif isinstance(error, FileNotFoundError):
        reason = "there is no such file"
    else:
        reason = str(error).rstrip(".") or type(error).__name__
    return DataError(
        f"{called} cannot be read: {reason}; repair or remove it, or leave bad images out (--on-bad-image skip)."
    )
