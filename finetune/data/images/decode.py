"""Bytes to a decoded picture, or what is wrong with them. Every call of PIL that can fail is in here.

PIL refuses a file that ends too early, and stays as strict (ImageFile.LOAD_TRUNCATED_IMAGES is not set).
"""

import io
import logging
import os
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import PIL.Image
from PIL import WebPImagePlugin  # noqa: F401  with it and TIFF's PIL has all of FORMATS, and loads no others
from PIL.ExifTags import Base
from PIL.GifImagePlugin import GifImageFile
from PIL.TiffImagePlugin import TiffImageFile

from finetune.data.images.kinds import FORMATS, claimed_format, seems
from finetune.data.images.wrong import WrongImageError

MOST_BYTES = 200_000_000
MOST_PIXELS = 100_000_000
_MOST_WORK = 100 * MOST_PIXELS  # pixels x passes over them; a progressive JPEG has about ten passes
_MOST_REMARKS = 1000
_SCAN = b"\xff\xda"  # a JPEG's start of a pass
_NUMBERS = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
_MEANING = 262  # TIFF's PhotometricInterpretation
_WITH_COLOUR = ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr")
_MODES = frozenset(("1", "L", "LA", "La", *_NUMBERS, *_WITH_COLOUR))
_JPEGS = ("JPEG", "MPO")
"""PIL's MPO is a JPEG with others behind it, a camera's preview or depth map: the first is the picture."""

# What PIL remarks on (large pictures, damaged EXIF) is either refused below or does not matter.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL)

_stderr = threading.Lock()
_LIBTIFF = re.compile(
    rb"^(JPEGLib|TIFF\w+|\w+Decode\w*|_TIFF\w+|Fax\w+|ZIP\w+|LZW\w+|OJPEG\w+): [^\n]*", re.MULTILINE
)


def size_of(content: bytes, name: str) -> tuple[int, int]:
    """Width and height of the picture when it stands upright, after decoding all of it.

    name: for messages. Raises WrongImageError: E313 no image, E314 damaged, E315 too large, E316 more than one
    frame, E317 pixels of a kind that cannot be shown.
    """
    with _told(content, name):
        image = _opened(content, name)
        _refuse_frames(image, content, name)
        if image.format == "PNG":
            _open(content).verify()  # the check sums, which decoding does not compare
        size = image.size
        if image.format in _JPEGS:
            image.draft("L", (1, 1))  # an eighth of the size, grey: all bytes are read, with less arithmetic
            image.load()
        else:
            _load(image)
            size = image.size  # PIL turns a TIFF while decoding
        _refuse_unshown(image, name)
        return size if orientation(image) < 5 else (size[1], size[0])


def decoded(content: bytes, name: str) -> PIL.Image.Image:
    """The picture, decoded, not yet upright. Raises WrongImageError."""
    with _told(content, name):
        image = _opened(content, name)
        image.load()
        return image


def orientation(image: PIL.Image.Image) -> int:
    """How a decoded picture must be turned, 1 to 8 as EXIF counts them; 1 where its EXIF is damaged."""
    try:
        found = image.getexif().get(Base.Orientation, 1)
    except Exception:  # whatever reading damaged EXIF leads to: programs that show pictures ignore it
        return 1
    return found if found in range(1, 9) else 1


def _open(content: bytes) -> PIL.Image.Image:
    return PIL.Image.open(io.BytesIO(content), formats=FORMATS)


def _opened(content: bytes, name: str) -> PIL.Image.Image:
    """The picture with its header read, after what the header tells was checked."""
    if not content:
        raise WrongImageError("E313", f"{name}: the file is empty (0 bytes); copy it again")
    image = _open(content)
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise too_large(name, f"{width} x {height} pixels")
    if content[:2] in (b"P1", b"P2", b"P3") and (remarks := content.count(b"#")) > _MOST_REMARKS:
        raise too_large(name, f"{remarks:,} comments in a PPM file")  # PIL's time grows with their square
    passes = content.count(_SCAN) if image.format in _JPEGS else 1
    if width * height * passes > _MOST_WORK:
        raise too_large(name, f"{width} x {height} pixels in {passes:,} passes")
    return image


def _refuse_frames(image: PIL.Image.Image, content: bytes, name: str) -> None:
    frames = 1 if image.format in _JPEGS else getattr(image, "n_frames", 1)  # only where there can be several
    if frames > 1:
        what = "pages" if image.format == "TIFF" else "frames"
        reason = f"{name}: {frames:,} {what} in one {image.format} file; save the one that is meant as an image"
        raise WrongImageError("E316", reason)
    if isinstance(image, GifImageFile):  # it was read to its end to count the frames
        end = image.fp.tell() if image.fp else 0
        if content[end - 1 : end] != b";":
            raise _damaged(content, name, "its end is missing")


def _refuse_unshown(image: PIL.Image.Image, name: str) -> None:
    """A decoded picture whose pixels have no sure meaning as colours."""
    if image.mode not in _MODES:
        why = f"colours of the kind {image.mode} have no sure meaning; save it as RGB"
    elif isinstance(image, TiffImageFile) and image.mode in _NUMBERS and image.tag_v2.get(_MEANING) == 0:
        why = "a TIFF of large numbers in which zero is white; save it as RGB"
    elif image.mode == "F" and not np.isfinite(np.asarray(image)).all():
        why = "has pixels that are no number (NaN or infinity); write numbers there"
    else:
        return
    raise WrongImageError("E317", f"{name}: {why}")


def _load(image: PIL.Image.Image) -> None:
    with _libtiff_heard() if image.format == "TIFF" else nullcontext():
        image.load()


@contextmanager
def _libtiff_heard() -> Iterator[None]:
    """Raises OSError for what libtiff finds wrong: it writes that on stderr, past Python, and may decode on."""
    with _stderr:
        kept, (hears, speaks) = os.dup(2), os.pipe()
        try:
            os.set_blocking(speaks, False)  # what does not fit into the pipe is lost
            os.dup2(speaks, 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            os.close(speaks)
            with os.fdopen(hears, "rb") as pipe:
                said = _LIBTIFF.search(pipe.read())
        if said:
            raise OSError(said[0].decode(errors="replace"))


@contextmanager
def _told(content: bytes, name: str) -> Iterator[None]:
    """Whatever PIL raises about bytes, as a WrongImageError."""
    try:
        yield
    except WrongImageError:
        raise
    except PIL.Image.DecompressionBombError:
        raise too_large(name, f"more than {MOST_PIXELS // 10**6} megapixels") from None
    except Exception as error:  # PIL lets out whatever parsing damaged bytes leads to: struct.error, KeyError …
        if not claimed_format(content):
            raise WrongImageError("E313", f"{name}: no image that can be read; {seems(content)}") from None
        if isinstance(error, PIL.UnidentifiedImageError):
            raise _damaged(content, name, "its header cannot be read") from None
        if "MAX_TEXT" in str(error):
            raise too_large(name, "texts inside the PNG that unpack to megabytes") from None
        says_it = isinstance(error, OSError | SyntaxError | ValueError)  # in PIL's own words
        raise _damaged(content, name, str(error) if says_it else "its parts do not fit together") from None


def _damaged(content: bytes, name: str, why: str) -> WrongImageError:
    kind = claimed_format(content)
    why = "it ends too early" if "truncated" in why.lower() else why
    return WrongImageError("E314", f"{name}: the {kind} file is damaged or cut off ({why}); copy it again")


def too_large(name: str, what: str) -> WrongImageError:
    """The refusal of an image that is `what`."""
    limits = f"at most {MOST_PIXELS // 10**6} megapixels and {MOST_BYTES // 10**6} MB are read"
    return WrongImageError("E315", f"{name}: {what}; {limits}: make it smaller")
