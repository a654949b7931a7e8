"""A picture that was looked at, and can be used."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Picture:
    """An image file that decodes: where its bytes lie, and how large it is when it stands upright.

    path: absolute; of a picture that came as bytes or from the net, a file of the cache. sha256: of the file's
    bytes, in hexadecimal. width, height: in pixels, after EXIF's orientation.
    """

    path: str
    sha256: str
    width: int
    height: int
