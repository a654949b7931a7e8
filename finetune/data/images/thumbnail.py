"""A picture made small, for a person to recognize it by."""

import io

from PIL.Image import Resampling

from finetune.data.images.picture import Picture
from finetune.data.images.pixels import pixels

LONGER_SIDE = 160
"""Pixels of a thumbnail at most."""
_QUALITY = 70


def thumbnail(picture: Picture) -> bytes:
    """The picture as a JPEG of a few kB, never larger than it is. Raises DataError if its file changed."""
    small = pixels(picture)
    small.thumbnail((LONGER_SIDE, LONGER_SIDE), Resampling.BICUBIC)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=_QUALITY, optimize=True)
    return file.getvalue()
