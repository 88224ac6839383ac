from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitune.data.images import decode_image, image_size, is_image_name, list_images, read_image, walk_images
from vitune.errors import DataError


def pixels(path: Path) -> np.ndarray:
    image = read_image(path)
    assert image.mode == "RGB"
    return np.asarray(image)


def picture(width: int = 6, height: int = 4) -> Image.Image:
    return Image.fromarray(np.arange(width * height * 3, dtype=np.uint8).reshape(height, width, 3))


def test_sixteen_bit_png_is_scaled(tmp_path):
    Image.fromarray(np.array([[0, 32896, 65535]], np.uint16)).save(tmp_path / "a.png")
    assert pixels(tmp_path / "a.png")[0, :, 0].tolist() == [0, 128, 255]


def test_sixteen_and_32_bit_tiff_are_scaled(tmp_path):
    for name, kind in (("a.tif", np.uint16), ("b.tif", np.int32)):
        Image.fromarray(np.array([[0, 32896, 65535]], kind)).save(tmp_path / name)
        assert pixels(tmp_path / name)[0, :, 1].tolist() == [0, 128, 255]


def test_float_tiff(tmp_path):
    Image.fromarray(np.array([[0, 1.0]], np.float32)).save(tmp_path / "a.tif")
    assert pixels(tmp_path / "a.tif")[0, :, 2].tolist() == [0, 255]


def test_cmyk_jpeg(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    red, green, blue = pixels(tmp_path / "a.jpg")[4, 4].tolist()
    assert red > 245
    assert green < 10
    assert blue < 10


def test_palette_png_with_transparency(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([1, 2, 3, 200, 100, 50])
    image.putdata([0, 1])
    image.save(tmp_path / "a.png", transparency=0)
    assert pixels(tmp_path / "a.png").tolist() == [[[255, 255, 255], [200, 100, 50]]]


def test_one_pixel_and_grey(tmp_path):
    Image.new("L", (1, 1), 77).save(tmp_path / "a.png")
    assert pixels(tmp_path / "a.png").tolist() == [[[77, 77, 77]]]


TURNED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("orientation", TURNED)
def test_exif_rotation_is_applied(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture().save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(pixels(tmp_path / "a.png"), TURNED[orientation](np.asarray(picture())))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize(
    "exif", [b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\0\x09\x01"]
)
def test_broken_exif_leaves_the_picture_as_stored(tmp_path, exif):
    picture().save(tmp_path / "a.webp", lossless=True, exif=exif)
    assert np.array_equal(pixels(tmp_path / "a.webp"), np.asarray(picture()))


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert pixels(tmp_path / "a.gif")[0, 0].tolist() == [255, 0, 0]


def test_text_file_called_jpg_is_named(tmp_path):
    (tmp_path / "notes.jpg").write_text("not an image")
    with pytest.raises(
        DataError, match=r"image '.*notes\.jpg' cannot be read: it is not an image in any known"
    ):
        read_image(tmp_path / "notes.jpg")


def test_truncated_jpeg_is_named(tmp_path):
    picture(64, 64).save(tmp_path / "cut.jpg")
    data = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    with pytest.raises(
        DataError, match=r"image '.*cut\.jpg' \(labels\.csv, line 3\) cannot be read: .*truncated"
    ):
        read_image(tmp_path / "cut.jpg", origin="labels.csv, line 3")


def test_empty_and_missing_files_are_named(tmp_path):
    (tmp_path / "empty.png").touch()
    with pytest.raises(DataError, match=r"empty\.png' cannot be read: it is not an image"):
        read_image(tmp_path / "empty.png")
    with pytest.raises(DataError, match=r"gone\.png' cannot be read: there is no such file"):
        read_image(tmp_path / "gone.png")


@pytest.mark.parametrize("limit", [30, 12])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_too_many_pixels_are_an_error_above_the_limit_itself(tmp_path, monkeypatch, limit):
    # Pillow alone only warns between the limit and twice the limit.
    picture(8, 5).save(tmp_path / "big.png")
    assert read_image(tmp_path / "big.png").size == (8, 5)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(DataError, match=r"big\.png' cannot be read: .*(exceed|decompression bomb)"):
        read_image(tmp_path / "big.png")


def test_every_truncation_and_flipped_byte_is_an_image_or_a_data_error():
    buffer = io.BytesIO()
    picture(16, 16).save(buffer, "png")
    data = buffer.getvalue()
    outcomes = set()
    for position in range(0, len(data), 7):
        for broken in (
            data[:position],
            data[:position] + bytes([data[position] ^ 0x55]) + data[position + 1 :],
        ):
            try:
                outcomes.add(decode_image(broken, name="x").mode)
            except DataError as error:
                outcomes.add(str(error)[:26])
    assert outcomes == {"RGB", "image 'x' cannot be read: "}


def test_size_comes_from_the_header(tmp_path):
    picture(64, 48).save(tmp_path / "a.jpg")
    data = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(data[:700])
    assert image_size(str(tmp_path / "a.jpg"), name="a.jpg") == (64, 48)
    with pytest.raises(DataError, match="image 'b' cannot be read"):
        image_size(io.BytesIO(b"text"), name="b")


def test_image_names():
    assert all(map(is_image_name, ["a.jpg", "B.JPEG", "c.tIf", "d e.png"]))
    assert not any(map(is_image_name, [".a.jpg", "._b.png", ".DS_Store", "notes.txt", "jpg", "Thumbs.db"]))


def test_list_images_takes_files_as_they_are_and_walks_folders(tmp_path, save):
    for name in ("b/2.png", "b/1.JPG", "b/deep/3.png", "b/.hidden.png", "b/.git/4.png"):
        save(tmp_path / name)
    save(tmp_path / "x.png").rename(tmp_path / "odd")
    (tmp_path / "b/notes.txt").touch()
    found = list_images([tmp_path / "odd", str(tmp_path / "b")])
    assert [path.relative_to(tmp_path).as_posix() for path in found] == [
        "odd",
        "b/1.JPG",
        "b/2.png",
        "b/deep/3.png",
    ]


def test_list_images_names_what_is_missing(tmp_path):
    with pytest.raises(DataError, match=r"'.*gone' does not exist; give image files or folders"):
        list_images([tmp_path / "gone"])
    with pytest.raises(DataError, match=r"folder '.*' holds no image"):
        list_images([tmp_path])


def test_links_are_followed_without_going_in_circles(tmp_path, save):
    save(tmp_path / "a" / "0.png")
    save(tmp_path / "elsewhere" / "1.png")
    (tmp_path / "a" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "a" / "again").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "a")
    assert walk_images(tmp_path / "a") == ["0.png", "again/1.png"]


def test_folder_that_cannot_be_listed(tmp_path):
    with pytest.raises(
        DataError, match=r"folder '.*gone' cannot be listed: No such file or directory; check it"
    ):
        walk_images(tmp_path / "gone")
