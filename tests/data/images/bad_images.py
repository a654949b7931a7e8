"""Images that cannot be used, one in each case, with what is said of them.

$ python -m tests.data.images.bad_images
"""

import base64
import os
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL.Image

from finetune.chat.messages import Image
from finetune.data.images.access import Access, settled
from finetune.data.images.look import look
from finetune.data.images.wrong import WrongImageError
from tests.data.images import files
from tests.data.images.files import chunk, flag, noise, png, saved, tiff, whole


class Case(NamedTuple):
    """An image that `make` puts into a folder and names, its code and words of what is said of it."""

    name: str
    make: Callable[[Path], Image]
    code: str
    words: str


def of_bytes(name: str, content: bytes, code: str, words: str) -> Case:
    """A case that is a file beside the data."""

    def make(folder: Path) -> Image:
        (folder / name.replace("/", "_")).write_bytes(content)
        return Image(name.replace("/", "_"))

    return Case(name, make, code, words)


def of_path(
    name: str, path: str, code: str, words: str, prepare: Callable[[Path], object] = lambda _: None
) -> Case:
    """A case that is a path; {folder} in it is the folder of the data."""

    def make(folder: Path) -> Image:
        prepare(folder)
        return Image(path.replace("{folder}", str(folder)))

    return Case(name, make, code, words)


def cut_off() -> Iterator[Case]:
    """Every format, ending too early."""
    for name, content in whole().items():
        yield of_bytes(f"empty {name}", b"", "E313", "the file is empty (0 bytes)")
        for words, length in (
            ("20 bytes of", 20),
            ("a quarter of", len(content) // 4),
            ("half of", len(content) // 2),
            ("nine tenths of", len(content) * 9 // 10),
            ("all but 5 bytes of", len(content) - 5),
        ):
            yield of_bytes(f"{words} {name}", content[:length], "E314", "file is damaged or cut off")


def spoilt() -> Iterator[Case]:
    """Every format, with its first bytes turned, and as text."""
    for name, content in whole().items():
        turned = bytes(byte ^ 0xFF for byte in content[:4]) + content[4:]
        yield of_bytes(f"turned head of {name}", turned, "E313", "no image that can be read")
        text = base64.b64encode(content).decode()
        yield of_bytes(f"hexadecimal {name}", content.hex().encode(), "E313", "it seems to be text")
        address = f"data:image/{name};base64,{text}".encode()
        yield of_bytes(f"data URL of {name}", address, "E313", "the text of a data: URL")


def something_else() -> Iterator[Case]:
    """Files of other kinds under the name of an image."""
    kinds: dict[str, tuple[bytes, str]] = {
        "HTML": (b"<!DOCTYPE html>\n<html><title>404</title></html>", "an HTML page"),
        "HTML after a comment": (b"<!-- served -->\n<html></html>", "an HTML page"),
        "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing"),
        "SVG with its declaration": (b'\xef\xbb\xbf<?xml version="1.0"?>\n<svg/>', "an SVG drawing"),
        "XML": (b'<?xml version="1.0"?><Error>AccessDenied</Error>', "an XML document"),
        "JSON": (b'{"error": "not found"}', "JSON"),
        "text": (b"Not Found", "it seems to be text, and begins with 'Not Found'"),
        "Chinese text": ("没有找到".encode(), "it seems to be text, and begins with '没有找到'"),
        "text that begins with P": (b"Python is no image", "it seems to be text"),
        "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "`git lfs pull`"),
        "base64": (base64.b64encode(whole()["jpeg"]), "an image in base64"),
        "PDF": (b"%PDF-1.7\n", "a PDF document"),
        "Photoshop": (b"8BPS\0\1" + bytes(20), "a Photoshop document"),
        "HEIC": (b"\0\0\0\x18ftypheic" + bytes(20), "a HEIC image"),
        "JPEG XL": (b"\xff\x0a" + bytes(20), "a JPEG XL image"),
        "FITS": (b"SIMPLE  =                    T", "a FITS file"),
        "MP4": (b"\0\0\0\x20ftypisom" + bytes(20), "a video"),
        "WebM": (b"\x1a\x45\xdf\xa3" + bytes(20), "a video"),
        "AVI": (b"RIFF\0\0\0\0AVI LIST", "a video"),
        "MP3": (b"ID3\4" + bytes(20), "a sound"),
        "WAVE": (b"RIFF\0\0\0\0WAVEfmt ", "a sound"),
        "ZIP": (b"PK\3\4" + bytes(20), "a ZIP archive"),
        "gzip": (b"\x1f\x8b\x08" + bytes(20), "a compressed file"),
        "NumPy": (b"\x93NUMPY\1\0", "a NumPy array"),
        "HDF5": (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        "zeros": (bytes(5000), "filled with zeros"),
        "one byte": (b"\x80", "of an unknown kind"),
        "noise": (np.random.default_rng(5).bytes(3000), "of an unknown kind; JPEG, PNG"),
        "EPS": (saved("EPS", flag()), "a PostScript drawing"),
        "ICO": (saved("ICO", flag()), "a Windows icon"),
        "JPEG 2000": (saved("JPEG2000", flag()), "a JPEG 2000 image"),
        "DDS": (saved("DDS", flag()), "a DDS texture"),
        "TGA": (saved("TGA", flag()), "of an unknown kind"),
        "PCX": (saved("PCX", flag()), "of an unknown kind"),
        "SGI": (saved("SGI", flag()), "of an unknown kind"),
        "IM": (saved("IM", flag()), "of an unknown kind"),
        "PDF by PIL": (saved("PDF", flag()), "a PDF document"),
    }
    for name, (content, words) in kinds.items():
        yield of_bytes(f"{name}.jpg", content, "E313", words)


def damaged() -> Iterator[Case]:
    """Files whose parts do not fit together."""
    grey = np.asarray(noise("L"))
    rows, good, jpeg = files.grey_rows(grey), whole()["png"], whole()["jpeg"]
    at = good.index(b"IDAT") + 200
    first = jpeg.index(b"\xff\xdb")
    in_jpeg = whole()["jpeg.tiff"]
    packed = in_jpeg.index(b"\xff\xda") + 300
    kinds = {
        "PNG with a changed byte": good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :],
        "PNG with a wrong check sum": png(48, 32, chunk(b"IDAT", rows[8:-4], damage=1)),
        "PNG with a wrong check sum of a remark": png(48, 32, chunk(b"pHYs", bytes(9), damage=1), rows),
        "PNG without pixels": png(48, 32),
        "PNG without its last chunk": good[:-12],
        "PNG that is not packed": png(48, 32, chunk(b"IDAT", b"raw pixels")),
        "PNG of no width": png(0, 32, rows),
        "PNG of 3 bits": png(48, 32, rows, bits=3),
        "PNG with a colour type 5": png(48, 32, rows, colour=5),
        "PNG whose line ends were converted": good.replace(b"\r\n", b"\n", 1),
        "JPEG without quantization tables": jpeg[:first] + jpeg[jpeg.index(b"\xff\xc0") :],
        "JPEG without pixels": jpeg[: jpeg.index(b"\xff\xda")] + b"\xff\xd9",
        "JPEG of no width": files.resized(jpeg, 0, 32),
        "JPEG of one byte more than its start": b"\xff\xd8\xff\xe0",
        "GIF without a picture": b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0, 0, 0) + b";",
        "GIF without its end": whole()["gif"][:-1],
        "GIF with pixels that cannot be unpacked": files.gif((8, 8), (8, 8), b"\x0f\x02\x44\x01\x00"),
        "BMP of 13 bits": whole()["bmp"][:28] + b"\x0d\0" + whole()["bmp"][30:],
        "BMP that is packed in an unknown way": whole()["bmp"][:30] + b"\x63" + whole()["bmp"][31:],
        "TIFF without a directory": b"II*\0" + struct.pack("<I", 8),
        "TIFF whose directory lies behind its end": b"II*\0" + struct.pack("<I", 1 << 20) + bytes(40),
        "TIFF with too few pixels": tiff(bytes(10), 48, 32),
        "TIFF of 7 bits": tiff(bytes(48 * 32), 48, 32, bits=7),
        "TIFF packed otherwise than it says": whole()["lzw.tiff"].replace(
            struct.pack("<HHIHH", 259, 3, 1, 5, 0), struct.pack("<HHIHH", 259, 3, 1, 8, 0)
        ),
        "TIFF of 32,515 samples for each pixel": whole()["tiff"].replace(
            struct.pack("<HHIHH", 277, 3, 1, 3, 0), struct.pack("<HHIHH", 277, 3, 1, 32515, 0)
        ),
        "TIFF of JPEG with an unknown mark": in_jpeg[:packed] + b"\xff\x15" + in_jpeg[packed + 2 :],
        "WebP whose length is wrong": whole()["webp"][:4] + b"\xff\xff\xff\x7f" + whole()["webp"][8:],
        "WebP without pixels": b"RIFF\x04\0\0\0WEBP",
        "PPM of no white": b"P6 2 2 0\n" + bytes(12),
        "PPM of no width": b"P6 0 2 255\n",
        "PPM with words for numbers": b"P3 2 2 255\none two three",
        "PPM with numbers above its white": b"P3 1 1 7\n9 9 9",
        "PFM of scale zero": b"Pf\n2 2\n0.0\n" + bytes(16),
    }
    for name, content in kinds.items():
        yield of_bytes(name, content, "E314", "file is damaged or cut off")


def too_large() -> Iterator[Case]:
    """Small files that unpack to much, and a large one."""
    packed = zlib.compress(bytes(50_000_000), 9)
    webp = b"RIFF\x1a\0\0\0WEBPVP8L\x0d\0\0\0\x2f" + struct.pack("<I", 16383 | 16383 << 14) + bytes(8)
    one = files.grey_rows(np.zeros((1, 1), np.uint8))
    kinds = {
        "PNG of 65,535 x 65,535": png(65535, 65535, rows := files.grey_rows(np.zeros((1, 1), np.uint8))),
        "PNG of 10,001 x 10,000": png(10001, 10000, rows),
        "PNG that unpacks to 108 megapixels": saved("PNG", PIL.Image.new("1", (12000, 9000))),
        "PNG with a packed text of 50 MB": png(1, 1, chunk(b"zTXt", b"Title\0\0" + packed), one),
        "PNG with an international text of 50 MB": png(1, 1, chunk(b"iTXt", b"Title\0\1\0\0\0" + packed), one),
        "GIF of 65,535 x 65,535": files.gif((65535, 65535), (8, 8)),
        "GIF whose frame is larger than its screen": files.gif((8, 8), (60000, 60000)),
        "JPEG of 65,500 x 65,500": files.resized(whole()["jpeg"], 65500, 65500),
        "JPEG of 12,000 x 9,000": files.resized(whole()["jpeg"], 12000, 9000),
        "JPEG of 1,000 passes": files.many_passes(1000),
        "PPM of 100,000 comments": b"P3 10 10 255\n" + b"#\n" * 100_000,
        "WebP of 16,384 x 16,384": webp,
        "TIFF of 100,000 x 100,000": tiff(bytes(10), 100_000, 100_000),
        "BMP of 30,000 x 30,000": b"BM"
        + bytes(12)
        + struct.pack("<IiiHHIIiiII", 40, 30000, 30000, 1, 24, *[0] * 6),
        "PPM of 30,000 x 30,000": b"P6 30000 30000 255\n",
        "PBM of 30,000 x 30,000": b"P4 30000 30000\n",
    }
    for name, content in kinds.items():
        yield of_bytes(name, content, "E315", "at most 100 megapixels and 200 MB are read")

    def sparse(folder: Path) -> None:
        (folder / "long.jpg").write_bytes(whole()["jpeg"])
        os.truncate(folder / "long.jpg", 200_000_001)

    yield of_path("a file of 200,000,001 bytes", "long.jpg", "E315", "200 MB", sparse)


def several() -> Iterator[Case]:
    """Animations and documents."""
    frames = [PIL.Image.new("L", (48, 32), shade) for shade in range(0, 250, 50)]
    for kind, count, words in (
        ("GIF", 2, "2 frames in one GIF file"),
        ("GIF", 5, "5 frames in one GIF file"),
        ("PNG", 3, "3 frames in one PNG file"),
        ("WEBP", 3, "3 frames in one WEBP file"),
        ("TIFF", 2, "2 pages in one TIFF file"),
    ):
        content = saved(kind, frames[0], save_all=True, append_images=frames[1:count], duration=100)
        yield of_bytes(f"{kind} of {count}", content, "E316", words)


def unshown() -> Iterator[Case]:
    """Pixels without a sure meaning."""
    for name, value in (("NaN", np.nan), ("infinity", np.inf), ("minus infinity", -np.inf)):
        values = np.zeros((32, 48), np.float32)
        values[3, 4] = value
        image = PIL.Image.fromarray(values)
        yield of_bytes(f"TIFF with {name}", saved("TIFF", image), "E317", "no number")
        yield of_bytes(f"PFM with {name}", saved("PPM", image), "E317", "no number")
    yield of_bytes("L*a*b* TIFF", saved("TIFF", PIL.Image.new("LAB", (48, 32))), "E317", "the kind LAB")
    inverted = tiff(bytes(48 * 32 * 2), 48, 32, meaning=0)
    yield of_bytes("16-bit TIFF in which zero is white", inverted, "E317", "zero is white")


def paths() -> Iterator[Case]:
    """Where no image is, or none may be read."""
    outside = "lies outside"

    def link_out(folder: Path) -> None:
        (folder.parent / "secret.png").write_bytes(whole()["png"])
        (folder / "link.png").symlink_to(folder.parent / "secret.png")
        (folder / "folder").symlink_to(folder.parent)

    def loop(folder: Path) -> None:
        (folder / "loop.png").symlink_to("loop.png")

    def below_a_file(folder: Path) -> None:
        (folder / "file.png").write_bytes(whole()["png"])

    yield of_path("no file", "nothing.png", "E312", "no such file")
    yield of_path("no folder", "nothing/nothing.png", "E312", "no such file")
    yield of_path("folders as on Windows", "images\\cat.png", "E312", "divided by /")
    yield of_path("a folder", "cats.png", "E312", "a folder", lambda folder: (folder / "cats.png").mkdir())
    yield of_path("the folder of the data", ".", "E312", "a folder")
    yield of_path("below a file", "file.png/cat.png", "E312", "cannot be read", below_a_file)
    yield of_path("a name of 300 letters", "x" * 300, "E312", "cannot be read")
    yield of_path("a link to itself", "loop.png", "E312", "cannot be read", loop)
    yield of_path(
        "a link to nothing", "gone.png", "E312", "no such file", lambda f: (f / "gone.png").symlink_to("no")
    )
    yield of_path("a pipe", "pipe.png", "E312", "a device or a pipe", lambda f: os.mkfifo(f / "pipe.png"))
    yield of_path("a path upwards", "../secret.png", "E311", outside)
    yield of_path("a path down and upwards", "a/../../secret.png", "E311", outside)
    yield of_path("a path to elsewhere", "/etc/passwd", "E311", outside)
    yield of_path("a device", "/dev/zero", "E311", outside)
    yield of_path("a folder whose name begins alike", "{folder}-2/cat.png", "E311", outside)
    yield of_path("a link outwards", "link.png", "E311", "leads to", link_out)
    yield of_path("through a link outwards", "folder/secret.png", "E311", "data_config.image_roots", link_out)
    yield of_path("a file address elsewhere", "file:///etc/passwd", "E311", outside)
    yield of_path("a file address with dots", "file://{folder}/%2e%2e/secret.png", "E311", outside)
    yield of_path(
        "a file address of another computer", "file://server/cat.png", "E310", "names the computer 'server'"
    )
    yield of_path("an empty path", "", "E310", "is empty")
    yield of_path("blanks", "  ", "E310", "is empty")
    yield of_path("an empty file address", "file://", "E310", "is empty")
    yield of_path("a NUL byte", "cat.png\0.jpg", "E310", "NUL")
    yield of_path("a NUL byte in an address", "file://{folder}/cat%00.png", "E310", "NUL")
    yield of_path("half a character", "cat\ud83d.png", "E310", "no file can have this name")
    yield of_path("an address", "https://example.org/cat.png", "E310", "--allow-remote-images")
    yield of_path("an address in capitals", "HTTP://EXAMPLE.ORG/CAT.PNG", "E310", "--allow-remote-images")
    yield of_path("an ftp address", "ftp://example.org/cat.png", "E310", "ftp:// cannot be read")
    yield of_path("an s3 address", "s3://bucket/cat.png", "E310", "s3:// cannot be read")
    yield of_path("a gs address", "gs://bucket/cat.png", "E310", "gs:// cannot be read")
    yield of_path("a data URL that is not base64", "data:image/png;base64,***", "E310", "not base64")
    yield of_path("a data URL of text", "data:text/plain,hello", "E310", "not base64")


def in_the_record() -> Iterator[Case]:
    """Bytes that stand in the record itself."""
    text = base64.b64encode(whole()["png"][:900]).decode()
    yield of_path("a data URL of half a PNG", f"data:image/png;base64,{text}", "E314", "an image in the record")
    yield of_path("a data URL of nothing", "data:image/png;base64,", "E313", "empty (0 bytes)")
    yield Case("bytes of a PDF", lambda _: Image(data=b"%PDF-1.7"), "E313", "a PDF document")
    yield Case("no bytes", lambda _: Image(data=b""), "E313", "empty (0 bytes)")


def every_case() -> Iterator[Case]:
    for kind in (cut_off, spoilt, something_else, damaged, too_large, several, unshown, paths, in_the_record):
        yield from kind()


def told(image: Image, folder: Path) -> tuple[str, str]:
    """The code and the reason for which an image of the data in `folder` is refused; "" where it is not."""
    try:
        picture = look(settled(image, folder, Access(())))
    except WrongImageError as wrong:
        return wrong.code, wrong.reason
    return "", f"{picture.width} x {picture.height}"


if __name__ == "__main__":
    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp()
    for case in every_case():
        with tempfile.TemporaryDirectory() as place:
            Path(place, "data").mkdir()
            code, reason = told(case.make(Path(place, "data")), Path(place, "data"))
            print(f"{case.name}\n    {code} {reason.replace(f'{place}/data/', '')[:300]}")
