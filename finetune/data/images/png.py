"""Pixels to the bytes of an image file."""

import io

import numpy as np
import PIL.Image
from numpy.typing import NDArray


def png(pixels: NDArray[np.uint8]) -> bytes:
    """A PNG file of pixels (height, width, 3)."""
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
