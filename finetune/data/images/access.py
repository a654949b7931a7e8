"""Where images may come from: data of somebody else must not have any file read, or any server asked."""

import base64
import binascii
import os
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

from finetune.chat.messages import Image
from finetune.data.images.wrong import WrongImageError

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://|(?i:(file|data)):")


@dataclass(frozen=True, slots=True)
class Access:
    """Where images may come from. roots: folders, besides that of the data file. remote: from http(s), too."""

    roots: tuple[Path, ...]
    remote: bool = False


def settled(image: Image, beside: Path, access: Access) -> Image:
    """The image with the true path of its file, every symbolic link followed; what is no path stays as it is.

    Relative paths start from `beside`, the folder of the data file. No file is opened. Raises WrongImageError
    for what `access` does not allow and for what is no path at all.
    """
    if image.data is not None:
        return image
    place = image.path or ""
    scheme = _scheme(place)
    if scheme == "data":
        return replace(image, path=None, data=_decoded(place))
    if scheme in ("http", "https"):
        if not access.remote:
            reason = f"{place}: an address, and nothing is fetched; --allow-remote-images allows it"
            raise WrongImageError("E310", reason)
        return image
    if scheme not in ("", "file"):
        reason = f"{place}: an address of the kind {scheme}:// cannot be read; copy the image into a folder"
        raise WrongImageError("E310", reason)
    return replace(image, path=str(_allowed(_path_of(place) if scheme else place, beside, access)))


def _scheme(place: str) -> str:
    found = _SCHEME.match(place)
    return (found[1] or found[2]).lower() if found else ""


def _decoded(address: str) -> bytes:
    """The bytes of a data: URL."""
    kind, _, content = address.partition(",")
    try:
        if kind.endswith(";base64"):
            return base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError):
        pass
    raise WrongImageError("E310", f"{address[:40]}…: the image's data: URL is not base64")


def _path_of(address: str) -> str:
    """The path of a file: URL."""
    parts = urlsplit(address)
    if parts.netloc not in ("", "localhost"):
        reason = f"{address}: names the computer {parts.netloc!r}; write file:/// and the whole path, or a path"
        raise WrongImageError("E310", reason)
    return unquote(parts.path)


def _allowed(place: str, beside: Path, access: Access) -> Path:
    if not place.strip():
        raise WrongImageError("E310", "the path of an image is empty")
    if "\0" in place:
        raise WrongImageError("E310", f"{place!r}: the path of an image holds a NUL byte")
    try:
        path = Path(os.path.realpath(beside / place))
    except ValueError:  # a lone surrogate, which no file system spells
        raise WrongImageError("E310", f"{place!r}: no file can have this name") from None
    if any(path.is_relative_to(_real(folder.absolute())) for folder in (beside, *access.roots)):
        return path
    leads = f" leads to {path}, which" if str(path) != place else ""
    reason = f"{place}:{leads} lies outside {beside} and the folders of data_config.image_roots"
    raise WrongImageError("E311", f"{reason}; add its folder there, or move the image")


@lru_cache(maxsize=256)
def _real(folder: Path) -> Path:
    """Where a folder truly is; asked for every image, so that it is remembered."""
    return Path(os.path.realpath(folder))
