"""Which of a person's files is for training, which for validation and which for the test: by their names."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.data.records import data_files, is_hub_id
from finetune.errors import DataError, some_of

_WORDS: Mapping[str, str] = {
    "train": "train",
    "training": "train",
    "dev": "val",
    "development": "val",
    "eval": "val",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


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
    if path.is_dir():
        return _sorted_out(path, [file.name for file in data_files(path)])
    if path.is_file():
        return _beside(path)
    if is_hub_id(data):
        return DataFiles(Path(), (data,))
    raise DataError(f"{data}: no such file or folder, and no Hub id (owner/name)")


def _sorted_out(folder: Path, names: Sequence[str]) -> DataFiles:
    """The files of a folder by what their names say; the only one without a word trains."""
    by_part: dict[str, list[str]] = {}
    for name in names:
        by_part.setdefault(_part(name) or "", []).append(name)
    train = by_part.get("train") or by_part.get("", [])
    if not train or (len(train) > 1 and "train" not in by_part):
        raise DataError(
            f"{folder}: which file is for training? None is called train; it holds {some_of(names, 8)}; "
            "name the file itself: finetune init FILE MODEL"
        )
    val, test = _first(by_part, "val"), _first(by_part, "test")
    used = {*train, val, test}
    return DataFiles(folder, tuple(train), val, test, tuple(name for name in names if name not in used))


def _first(by_part: Mapping[str, Sequence[str]], part: str) -> str | None:
    return next(iter(by_part.get(part, ())), None)


def _beside(path: Path) -> DataFiles:
    """A file; and for a training file those beside it whose names differ in that one word."""
    if _part(path.name) != "train":
        return DataFiles(path.parent, (path.name,))
    alike = [file.name for file in data_files(path.parent) if _frame(file.name) == _frame(path.name)]
    by_part = {_part(name) or "": [name] for name in reversed(alike)}
    return DataFiles(path.parent, (path.name,), _first(by_part, "val"), _first(by_part, "test"))


def _part(name: str) -> str | None:
    """train, val or test, where one of the words of a file's name says so."""
    words = re.split(r"[\W_]+", name.lower())
    return next((_WORDS[word] for word in words if word in _WORDS), None)


def _frame(name: str) -> str | None:
    """A name without the word that says what it is for; None where there is none. Endings do not count."""
    words = re.split(r"([\W_]+)", name.partition(".")[0].lower())
    at = next((i for i, word in enumerate(words) if word in _WORDS), None)
    return None if at is None else "".join([*words[:at], "*", *words[at + 1 :]])
