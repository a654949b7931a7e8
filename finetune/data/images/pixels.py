"""The pixels of a picture: RGB, upright, on white; the same numbers whenever they are asked for."""

import hashlib
from pathlib import Path

import numpy as np
import PIL.Image
from PIL.Image import Transpose
from PIL.TiffImagePlugin import TiffImageFile

from finetune.data.images.decode import decoded, orientation
from finetune.data.images.picture import Picture
from finetune.data.images.wrong import WrongImageError
from finetune.errors import DataError

_BITS = 258  # TIFF's BitsPerSample
_SIGNED = 339  # TIFF's SampleFormat: 1 unsigned, 2 signed
_TURNS = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}


def pixels(picture: Picture) -> PIL.Image.Image:
    """The picture as 8-bit RGB, upright, what is transparent on white. Raises DataError if its file changed."""
    image = _unchanged(picture)
    upright = orientation(image)
    image = rgb(image)
    return image.transpose(_TURNS[upright]) if upright in _TURNS else image


def _unchanged(picture: Picture) -> PIL.Image.Image:
    try:
        content = Path(picture.path).read_bytes()
    except FileNotFoundError:
        raise DataError(f"{picture.path}: the image is gone; put it back, and go on (RESUME yes)") from None
    except OSError as error:
        raise DataError(f"{picture.path}: the image cannot be read: {error.strerror}") from None
    if hashlib.sha256(content).hexdigest() != picture.sha256:
        raise DataError(
            f"{picture.path}: the image has changed since it was encoded; bring it back, or start again"
        )
    try:
        return decoded(content, picture.path)
    except WrongImageError as wrong:  # another version of PIL than looked at it
        raise DataError(wrong.reason) from None


def rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    """Any picture that `decoded` gives, as 8-bit RGB."""
    if image.mode.startswith("I;16"):
        return _from_16_bits(image)
    if image.mode in ("I", "F"):
        return _from_numbers(image)
    if image.has_transparency_data:
        white = PIL.Image.new("RGBA", image.size, "white")
        white.alpha_composite(image.convert("RGBA"))
        image = white
    return image.convert("RGB")


def _from_16_bits(image: PIL.Image.Image) -> PIL.Image.Image:
    """0 is black, the largest number of so many bits white; of a PNG one value may be transparent."""
    values = np.asarray(image).astype(np.uint32)
    white = 4095 if isinstance(image, TiffImageFile) and image.tag_v2.get(_BITS) == (12,) else 65535
    shades = ((values * 255 + white // 2) // white).astype(np.uint8)
    if isinstance(clear := image.info.get("transparency"), int):
        shades[values == clear] = 255
    return PIL.Image.fromarray(shades).convert("RGB")


def _from_numbers(image: PIL.Image.Image) -> PIL.Image.Image:
    """32-bit numbers have no agreed white: the smallest is black and the largest white.

    A PGM says what its white is, and PIL makes that 65535.
    """
    values = np.asarray(image)
    if isinstance(image, TiffImageFile) and image.mode == "I" and image.tag_v2.get(_SIGNED, (1,)) == (1,):
        values = values.view(np.uint32)  # PIL has signed numbers only
    whole = image.format == "PPM" and image.mode == "I"
    low, high = (0.0, 65535.0) if whole else (float(values.min()), float(values.max()))
    shades = (values.astype(np.float64) - low) / ((high - low) or 1) * 255
    return PIL.Image.fromarray(np.rint(shades).astype(np.uint8)).convert("RGB")
