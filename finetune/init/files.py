"""Which of a person's files is for training, which for validation and which for the test: by their names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.data.reading.records import data_files, files_by_split, is_hub_id, sorted_files
from finetune.data.reading.saved import is_saved
from finetune.data.reading.splits import Split, frame_of, split_of
from finetune.errors import DataError, some_of


@dataclass(frozen=True, slots=True)
class DataFiles:
    """Names as the YAML has them, relative to `folder` (DATA_DIR). unused: what else lies there."""

    folder: Path
    train: tuple[str, ...]
    val: str | None = None
    test: str | None = None
    unused: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[str, ...]:
        """Every file, training files first."""
        return (*self.train, *(name for name in dict.fromkeys((self.val, self.test)) if name))

    def path(self, name: str) -> Path:
        """Where the file of that name lies; a Hub id comes back as it is."""
        return Path(name) if is_hub_id(name) else self.folder / name


def find_files(data: str) -> DataFiles:
    """The files of a folder; or a file, with those beside it that are named alike. Raises DataError."""
    path = Path(data)
    if is_saved(path):  # its splits lie in it: one name is for all of them
        splits = set(files_by_split(path).values())
        val, test = (path.name if split in splits else None for split in ("validation", "test"))
        return DataFiles(path.parent, (path.name,), val, test)
    if path.is_dir():
        return _sorted_out(path, _without_notes(path))
    if path.is_file():
        return _beside(path)
    if is_hub_id(data):
        return DataFiles(Path(), (data,))
    raise DataError(f"{data}: no such file or folder, and no Hub id (owner/name)")


def _without_notes(folder: Path) -> list[str]:
    """The names of a folder's data files, but for LICENSE.txt and its like."""
    found = sorted_files(folder)
    return sorted({*found.all, *found.stray} - set(found.notes))


def _sorted_out(folder: Path, names: Sequence[str]) -> DataFiles:
    """The files of a folder by what their names say; the only one without a word trains."""
    by_split: dict[Split | None, list[str]] = {}
    for name in names:
        by_split.setdefault(split_of(name), []).append(name)
    train = by_split.get("training") or by_split.get(None, [])
    if not train or (len(train) > 1 and "training" not in by_split):
        raise DataError(
            f"{folder}: which file is for training? None is called train; it holds {some_of(names, 8)}; "
            "name the file itself: finetune init FILE MODEL"
        )
    val, test = _first(by_split, "validation"), _first(by_split, "test")
    used = {*train, val, test}
    return DataFiles(folder, tuple(train), val, test, tuple(name for name in names if name not in used))


def _first(by_split: Mapping[Split | None, Sequence[str]], split: Split) -> str | None:
    return next(iter(by_split.get(split, ())), None)


def _beside(path: Path) -> DataFiles:
    """A file; and for a training file those beside it whose names differ in that one word."""
    if split_of(path.name) != "training":
        return DataFiles(path.parent, (path.name,))
    alike = [file.name for file in data_files(path.parent) if frame_of(file.name) == frame_of(path.name)]
    by_split = {split_of(name): [name] for name in reversed(alike)}
    return DataFiles(path.parent, (path.name,), _first(by_split, "validation"), _first(by_split, "test"))
