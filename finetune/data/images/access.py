from dataclasses import dataclass, replace
from pathlib import Path


class WrongImageError(ValueError):
    def __init__(self, code, reason):
        super().__init__(reason)
        self.code = code
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Access:
    roots: tuple[Path, ...]
    remote: bool = False


def settled(image, beside, access):
    if image.path is None:
        return image
    return replace(image, path=str((beside / image.path).resolve()))
