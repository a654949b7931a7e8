"""Folders that `datasets` saved (`save_to_disk`): Arrow files, in the order that state.json gives.

A `Dataset` is one such folder; a `DatasetDict` has dataset_dict.json and a folder for each split.
"""

from pathlib import Path
from typing import Any

from finetune.data.reading.splits import Sorted, Split
from finetune.errors import DataError
from finetune.plain_json import read_json

_STATE, _SPLITS = "state.json", "dataset_dict.json"


def is_saved(folder: Path) -> bool:
    """Whether `datasets` saved this folder."""
    return (folder / _STATE).is_file() or (folder / _SPLITS).is_file()


def saved_files(folder: Path, split: Split) -> list[Path]:
    """The Arrow files for `split`; a folder of one data set is for whatever it is named for."""
    if (folder / _STATE).is_file():
        return _files(folder)
    return [file for name in _sorted(folder).for_split(split) for file in _files(folder / name)]


def saved_by_split(folder: Path) -> dict[Path, Split]:
    """All of them, and what each is for."""
    if (folder / _STATE).is_file():
        return dict.fromkeys(_files(folder), "training")
    return {file: split for name, split in _sorted(folder).all.items() for file in _files(folder / name)}


def _sorted(folder: Path) -> Sorted:
    names = _read(folder / _SPLITS).get("splits", [])
    return Sorted.of(str(folder), [name for name in names if isinstance(name, str)])


def _files(folder: Path) -> list[Path]:
    state = _read(folder / _STATE)
    if state.get("_indices_files"):
        raise DataError(f"{folder}: its rows are picked by an index; save it again after flatten_indices()")
    try:
        files = [folder / Path(one["filename"]).name for one in state["_data_files"]]
    except (KeyError, TypeError):
        raise DataError(f"{folder / _STATE}: damaged: it names no data files") from None
    if missing := [file for file in files if not file.is_file()]:
        raise DataError(f"{missing[0]}: named in {_STATE}, and not there; copy the folder again")
    return files


def _read(file: Path) -> dict[str, Any]:
    try:
        content = read_json(file)
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: damaged: {error}") from None
    return content if isinstance(content, dict) else {}
