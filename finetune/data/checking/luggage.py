"""The images of the records that `check --fix` keeps: copied, so that their paths hold beside the new file."""

import filecmp
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from finetune.chat.messages import Image
from finetune.errors import DataError


@dataclass(slots=True)
class Luggage:
    """Images on their way into `folder`. copied, left: by name, those that go along and those that cannot."""

    folder: Path
    copied: set[str] = field(default_factory=set)
    left: set[str] = field(default_factory=set)

    def pack(self, named: Iterable[Image], settled: Iterable[Image]) -> None:
        """The images of a record, as it names them and where they lie.

        Only what lies below the data's folder can go along. Raises DataError for two images of one path.
        """
        for image, found in zip(named, settled, strict=True):
            if image.path is None or found.path is None or found.path.startswith(("http:", "https:")):
                continue
            name = os.path.normpath(image.path)
            if Path(name).is_absolute() or name.startswith(("..", "file:")):
                self.left.add(image.path)
            else:
                self._copy(Path(found.path), name)

    def _copy(self, source: Path, name: str) -> None:
        target = self.folder / name
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
            self.copied.add(name)
        elif not filecmp.cmp(source, target, shallow=False):
            reason = f"{source}: another file of the data has another image {name}; fix the files one by one"
            raise DataError(reason)

    def lines(self) -> list[str]:
        """For the screen."""
        lines = [f"{len(self.copied):,} images, beside them"] if self.copied else []
        if self.left:
            what = f"{len(self.left):,} images stay where they are ({min(self.left)} …)"
            lines.append(f"{what}: name their folders in data_config.image_roots")
        return lines
