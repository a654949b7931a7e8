"""Odd but good images: their size when they stand upright, and the colours that a person sees."""

import hashlib
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from finetune.data.images.picture import Picture
from finetune.data.images.pixels import pixels
from finetune.errors import DataError
from tests.data.images import files
from tests.data.images.conftest import Looked
from tests.data.images.files import (
    BLUE,
    GREEN,
    RED,
    WHITE,
    chunk,
    corners,
    flag,
    noise,
    png,
    saved,
    tiff,
    whole,
)

BLACK, GREY, PINK = (0, 0, 0), (128, 128, 128), (255, 128, 128)
Colours = list[tuple[int, int, int]]


def seen(image: PIL.Image.Image) -> Colours:
    """The colours of the quarters: top left, top right, bottom left, bottom right."""
    width, height = image.size
    places = [(x, y) for y in (height // 4, height * 3 // 4) for x in (width // 4, width * 3 // 4)]
    return [image.getpixel(place) for place in places]  # type: ignore[misc]


def alike(found: Colours, wanted: Colours, by: int) -> bool:
    return bool((np.abs(np.subtract(found, wanted)) <= by).all())


def greys(*shades: int) -> Colours:
    return [(shade, shade, shade) for shade in shades]


def quarters(*values: float, kind: str = "<u2") -> bytes:
    """48 x 32 numbers, one in each quarter."""
    top, bottom = (np.repeat(np.array([values[i : i + 2]]), 24, axis=1).repeat(16, axis=0) for i in (0, 2))
    return np.concatenate([top, bottom]).astype(kind).tobytes()


def numbers(*values: float, kind: str = "<f4") -> PIL.Image.Image:
    return PIL.Image.fromarray(
        np.frombuffer(quarters(*values, kind=kind), kind).reshape(32, 48).astype(kind[1:])
    )


FLAG = [RED, GREEN, BLUE, WHITE]
CLEAR = corners((255, 0, 0, 255), (255, 0, 0, 128), (0, 0, 0, 0), (0, 0, 255, 255), "RGBA")
SEEN = [RED, (255, 127, 127), WHITE, BLUE]
PALETTE = flag().quantize(4)
ROWS_16 = chunk(
    b"IDAT", zlib.compress(b"".join(b"\0" + struct.pack(">48H", *[0] * 24, *[65535] * 24) for _ in range(32)))
)
LA = corners((0, 255), (0, 128), (0, 0), (200, 255), "LA")


def clear_palette() -> bytes:
    """A palette image in which the colour of its first quarter is transparent."""
    return saved("PNG", PALETTE, transparency=PALETTE.getpixel((0, 0)))


def with_preview() -> bytes:
    """A JPEG with a smaller one behind it, as cameras write."""
    return saved("MPO", flag(), save_all=True, append_images=[PIL.Image.new("RGB", (8, 8))], quality=95)


def one_frame() -> bytes:
    """An animated PNG of a single frame."""
    control = chunk(b"acTL", struct.pack(">II", 1, 0))
    frame = chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 48, 32, 0, 0, 1, 1, 0, 0))
    return png(48, 32, control, frame, files.grey_rows(np.asarray(corners(0, 50, 100, 255, "L"))))


# name: (bytes of the file, colours of its quarters, how far they may lie away)
ODD: dict[str, tuple[bytes, Colours, int]] = {
    "JPEG": (saved("JPEG", flag(), quality=95), FLAG, 3),
    "progressive JPEG": (saved("JPEG", flag(), quality=95, progressive=True), FLAG, 3),
    "JPEG with halved colours": (saved("JPEG", flag(), quality=95, subsampling=2), FLAG, 3),
    "grey JPEG": (saved("JPEG", corners(0, 50, 100, 255, "L")), greys(0, 50, 100, 255), 3),
    "CMYK JPEG, inverted as Adobe does": (saved("JPEG", flag().convert("CMYK"), quality=95), FLAG, 3),
    "JPEG with another behind it": (with_preview(), FLAG, 3),
    "JPEG with something behind it": (saved("JPEG", flag(), quality=95) + b"\0\0garbage", FLAG, 3),
    "JPEG with damaged EXIF": (
        saved("JPEG", flag(), quality=95, exif=b"Exif\0\0II*\0\xff\xff\xff\xff"),
        FLAG,
        3,
    ),
    "PNG": (saved("PNG", flag()), FLAG, 0),
    "interlaced PNG": (files.interlaced(np.asarray(corners(0, 50, 100, 255, "L"))), greys(0, 50, 100, 255), 0),
    "PNG of one bit": (saved("PNG", corners(0, 1, 1, 0, "1")), greys(0, 255, 255, 0), 0),
    "PNG with alpha": (saved("PNG", CLEAR), SEEN, 1),
    "grey PNG with alpha": (saved("PNG", LA), greys(0, 127, 255, 200), 1),
    "PNG with a palette": (saved("PNG", PALETTE), FLAG, 0),
    "PNG with a transparent colour of its palette": (clear_palette(), [WHITE, GREEN, BLUE, WHITE], 0),
    "PNG with a palette of alphas": (saved("PNG", PALETTE, transparency=bytes([0, 0, 0, 0])), [WHITE] * 4, 0),
    "PNG with a transparent colour": (saved("PNG", flag(), transparency=RED), [WHITE, GREEN, BLUE, WHITE], 0),
    "PNG with a transparent grey": (
        saved("PNG", corners(0, 50, 100, 200, "L"), transparency=50),
        greys(0, 255, 100, 200),
        0,
    ),
    "PNG of 16 bits": (png(48, 32, ROWS_16, bits=16), greys(0, 255, 0, 255), 0),
    "PNG of 16 bits with a transparent grey": (
        png(48, 32, chunk(b"tRNS", b"\0\0"), ROWS_16, bits=16),
        greys(255, 255, 255, 255),
        0,
    ),
    "PNG of 16 bits, in between": (
        saved("PNG", numbers(0, 257, 32896, 65535, kind="<u2")),
        greys(0, 1, 128, 255),
        0,
    ),
    "animated PNG of one frame": (one_frame(), greys(0, 50, 100, 255), 0),
    "WebP": (saved("WEBP", flag(), quality=95), FLAG, 12),
    "lossless WebP with alpha": (saved("WEBP", CLEAR, lossless=True, exact=True), SEEN, 1),
    "GIF": (saved("GIF", PALETTE), FLAG, 0),
    "GIF with a transparent colour": (
        saved("GIF", PALETTE, transparency=PALETTE.getpixel((0, 0))),
        [WHITE, GREEN, BLUE, WHITE],
        0,
    ),
    "BMP": (saved("BMP", flag()), FLAG, 0),
    "BMP with a palette": (saved("BMP", PALETTE), FLAG, 0),
    "TIFF": (saved("TIFF", flag()), FLAG, 0),
    "TIFF with alpha": (saved("TIFF", CLEAR), SEEN, 1),
    "CMYK TIFF": (saved("TIFF", flag().convert("CMYK")), FLAG, 0),
    "YCbCr TIFF": (saved("TIFF", flag().convert("YCbCr")), FLAG, 3),
    "TIFF of fax": (saved("TIFF", corners(0, 1, 1, 0, "1"), compression="group4"), greys(0, 255, 255, 0), 0),
    "TIFF of 16 bits": (tiff(quarters(0, 257, 32896, 65535), 48, 32), greys(0, 1, 128, 255), 0),
    "TIFF of 16 bits, high byte first": (
        tiff(quarters(0, 257, 32896, 65535, kind=">u2"), 48, 32, ">"),
        greys(0, 1, 128, 255),
        0,
    ),
    "TIFF of 16 bits with a sign": (
        tiff(quarters(-32768, 0, 0, 32767, kind="<i2"), 48, 32, sample=2),
        greys(0, 128, 128, 255),
        1,
    ),
    "TIFF of 12 bits": (
        tiff(bytes([0xFF, 0xFF, 0xFF]) * 24 * 32, 48, 32, bits=12),
        greys(255, 255, 255, 255),
        0,
    ),
    "TIFF of 32 bits": (
        tiff(quarters(0, 2**30, 2**31, 2**32 - 1, kind="<u4"), 48, 32, bits=32),
        greys(0, 64, 128, 255),
        1,
    ),
    "TIFF of 32 bits with a sign": (
        tiff(quarters(-100, 0, 50, 100, kind="<i4"), 48, 32, bits=32, sample=2),
        greys(0, 128, 191, 255),
        1,
    ),
    "TIFF of real numbers": (saved("TIFF", numbers(0.0, 0.25, 0.5, 1.0)), greys(0, 64, 128, 255), 1),
    "TIFF of real numbers below zero": (saved("TIFF", numbers(-10, -5, 0, 10)), greys(0, 64, 128, 255), 1),
    "TIFF of one real number": (saved("TIFF", numbers(7, 7, 7, 7)), greys(0, 0, 0, 0), 0),
    "PPM": (saved("PPM", flag()), FLAG, 0),
    "PPM in figures": (b"P3\n# made by hand\n2 2\n255\n255 0 0  0 128 0  0 0 255  255 255 255\n", FLAG, 0),
    "PBM in figures": (b"P1\n2 2\n1 0\n0 1\n", greys(0, 255, 255, 0), 0),
    "PGM with a white of 4": (b"P5 2 2 4\n\0\1\2\4", greys(0, 64, 128, 255), 1),
    "PGM of 16 bits": (b"P5 2 2 65535\n" + struct.pack(">4H", 0, 257, 32896, 65535), greys(0, 1, 128, 255), 0),
    "dark PGM of 16 bits": (b"P5 2 2 65535\n" + struct.pack(">4H", 0, 257, 514, 771), greys(0, 1, 2, 3), 0),
    "PFM": (saved("PPM", numbers(0.0, 0.25, 0.5, 1.0)), greys(0, 64, 128, 255), 1),
}


@pytest.mark.parametrize("name", ODD)
def test_a_picture_shows_what_a_person_sees(name: str, looked_at: Looked) -> None:
    content, colours, by = ODD[name]
    picture = looked_at(content)
    image = pixels(picture)
    assert (image.mode, image.size) == ("RGB", (picture.width, picture.height))
    assert alike(seen(image), colours, by), seen(image)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_stands_upright(kind: str, orientation: int, looked_at: Looked) -> None:
    picture = looked_at(files.turned(kind, orientation))
    image = pixels(picture)
    assert image.size == (picture.width, picture.height) == (48, 32)
    assert alike(seen(image), FLAG, 40), seen(image)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_is_none(orientation: int, looked_at: Looked) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    picture = looked_at(saved("PNG", flag(), exif=exif))
    assert (picture.width, picture.height, seen(pixels(picture))) == (48, 32, FLAG)


@pytest.mark.parametrize("name", whole())
def test_the_files_that_are_spoilt_elsewhere_are_good(name: str, looked_at: Looked) -> None:
    picture = looked_at(whole()[name])
    assert (picture.width, picture.height) == pixels(picture).size == (48, 32)
    assert picture.sha256 == hashlib.sha256(whole()[name]).hexdigest()


def test_two_threads_get_the_same_pixels(looked_at: Looked) -> None:
    pictures = [looked_at(content) for content in whole().values()] * 8
    alone = [pixels(picture).tobytes() for picture in pictures]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda picture: pixels(picture).tobytes(), pictures)) == alone


def test_a_picture_that_changed_is_not_shown(looked_at: Looked) -> None:
    picture = looked_at(saved("PNG", flag()))
    Path(picture.path).write_bytes(saved("PNG", noise()))
    with pytest.raises(
        DataError, match=r"1\.img: the image has changed since it was encoded; bring it back, or start again"
    ):
        pixels(picture)


def test_a_picture_that_is_gone_is_not_shown(looked_at: Looked) -> None:
    picture = looked_at(saved("PNG", flag()))
    Path(picture.path).unlink()
    with pytest.raises(DataError, match=r"1\.img: the image is gone"):
        pixels(picture)


def test_a_picture_that_never_decoded_is_a_mistake_of_the_data(tmp_path: Path) -> None:
    (tmp_path / "page.jpg").write_bytes(b"<html>")
    picture = Picture(str(tmp_path / "page.jpg"), hashlib.sha256(b"<html>").hexdigest(), 8, 8)
    with pytest.raises(DataError, match=r"page\.jpg: no image that can be read"):
        pixels(picture)
