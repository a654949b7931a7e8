"""Image files made by hand and by PIL: small, and the same in every run."""

import io
import struct
import zlib
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 128, 0), (0, 0, 255), (255, 255, 255)
WIDTH, HEIGHT = 48, 32


def corners(
    top_left: Any, top_right: Any, bottom_left: Any, bottom_right: Any, mode: str = "RGB"
) -> PIL.Image.Image:
    """48 x 32 pixels, a colour in each quarter."""
    image = PIL.Image.new(mode, (WIDTH, HEIGHT), top_left)
    image.paste(top_right, (WIDTH // 2, 0, WIDTH, HEIGHT // 2))
    image.paste(bottom_left, (0, HEIGHT // 2, WIDTH // 2, HEIGHT))
    image.paste(bottom_right, (WIDTH // 2, HEIGHT // 2, WIDTH, HEIGHT))
    return image


def flag() -> PIL.Image.Image:
    """Red and green above blue and white."""
    return corners(RED, GREEN, BLUE, WHITE)


def noise(mode: str = "RGB") -> PIL.Image.Image:
    """48 x 32 pixels that do not compress, so that every byte of the file matters."""
    values = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    return PIL.Image.fromarray(values).convert(mode)


def saved(kind: str, image: PIL.Image.Image, **options: Any) -> bytes:
    """The bytes of an image file as PIL writes it."""
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


@cache
def whole() -> Mapping[str, bytes]:
    """Good files of every format and of every way to pack it, which are then spoilt."""
    grey16 = PIL.Image.fromarray(np.random.default_rng(1).integers(0, 65536, (HEIGHT, WIDTH)).astype(np.uint16))
    return {
        "jpeg": saved("JPEG", noise()),
        "progressive.jpeg": saved("JPEG", noise(), progressive=True),
        "grey.jpeg": saved("JPEG", noise("L")),
        "cmyk.jpeg": saved("JPEG", noise("CMYK")),
        "png": saved("PNG", noise()),
        "palette.png": saved("PNG", noise("P")),
        "16-bit.png": saved("PNG", grey16),
        "interlaced.png": interlaced(np.asarray(noise("L"))),
        "webp": saved("WEBP", noise()),
        "lossless.webp": saved("WEBP", noise(), lossless=True),
        "gif": saved("GIF", noise("P")),
        "bmp": saved("BMP", noise()),
        "tiff": saved("TIFF", noise()),
        "lzw.tiff": saved("TIFF", noise(), compression="tiff_lzw"),
        "deflate.tiff": saved("TIFF", noise(), compression="tiff_adobe_deflate"),
        "jpeg.tiff": saved("TIFF", noise(), compression="jpeg"),
        "pbm": saved("PPM", noise("1")),
        "pgm": saved("PPM", noise("L")),
        "ppm": saved("PPM", noise()),
        "pfm": saved("PPM", noise("F")),
    }


def chunk(kind: bytes, content: bytes, damage: int = 0) -> bytes:
    """A chunk of a PNG; `damage` is added to its check sum."""
    check = (zlib.crc32(kind + content) + damage) & 0xFFFFFFFF
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


def png(width: int, height: int, *chunks: bytes, bits: int = 8, colour: int = 0, interlace: int = 0) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlace)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunks) + chunk(b"IEND", b"")


def grey_rows(values: NDArray[Any]) -> bytes:
    """The chunk with a grey image's pixels, unfiltered."""
    return chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in values)))


def interlaced(values: NDArray[np.uint8]) -> bytes:
    """A grey PNG in Adam7's seven passes."""
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    rows = [row for x, y, dx, dy in passes for row in values[y::dy, x::dx]]
    packed = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows)))
    return png(values.shape[1], values.shape[0], packed, interlace=1)


def tiff(values: bytes, width: int, height: int, order: str = "<", **tags: int) -> bytes:
    """A grey TIFF of one strip. tags: bits (16), meaning (1: zero is black), sample (1: unsigned)."""
    bits, meaning, sample = tags.get("bits", 16), tags.get("meaning", 1), tags.get("sample", 1)
    entries = [(256, width), (257, height), (258, bits), (259, 1), (262, meaning), (273, 8), (277, 1)]
    entries += [(278, height), (279, len(values)), (339, sample)]
    fields = b"".join(struct.pack(order + "HHII", tag, 4, 1, value) for tag, value in entries)
    mark = b"II" if order == "<" else b"MM"
    start = 8 + len(values)
    return (
        mark
        + struct.pack(order + "HI", 42, start)
        + values
        + struct.pack(order + "H", len(entries))
        + fields
        + struct.pack(order + "I", 0)
    )


def gif(screen: tuple[int, int], frame: tuple[int, int], pixels: bytes = b"\x02\x02\x44\x01\x00") -> bytes:
    """A GIF of two colours whose header tells these sizes."""
    head = b"GIF89a" + struct.pack("<HHBBB", *screen, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    return head + b"," + struct.pack("<HHHHB", 0, 0, *frame, 0) + pixels + b";"


def resized(content: bytes, width: int, height: int) -> bytes:
    """A JPEG whose header tells another size."""
    start = content.index(b"\xff\xc0") + 5
    return content[:start] + struct.pack(">HH", height, width) + content[start + 4 :]


def many_passes(passes: int) -> bytes:
    """A progressive JPEG, 8000 x 8000 by its header, with its last pass repeated."""
    content = saved("JPEG", noise("L"), progressive=True)
    start = content.index(b"\xff\xc2") + 5
    content = content[:start] + struct.pack(">HH", 8000, 8000) + content[start + 4 :]
    last = content.rindex(b"\xff\xda")
    return content[:last] + content[last:-2] * passes + content[-2:]


def turned(kind: str, orientation: int) -> bytes:
    """The flag, stored so that EXIF's `orientation` makes it upright."""
    # What each orientation does to the stored pixels, undone.
    stored = {
        1: [],
        2: [PIL.Image.Transpose.FLIP_LEFT_RIGHT],
        3: [PIL.Image.Transpose.ROTATE_180],
        4: [PIL.Image.Transpose.FLIP_TOP_BOTTOM],
        5: [PIL.Image.Transpose.TRANSPOSE],
        6: [PIL.Image.Transpose.ROTATE_90],
        7: [PIL.Image.Transpose.TRANSVERSE],
        8: [PIL.Image.Transpose.ROTATE_270],
    }[orientation]
    image = flag()
    for step in stored:
        image = image.transpose(step)
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    return saved(kind, image, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
