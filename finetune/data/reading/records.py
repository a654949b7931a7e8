"""From files to records: bytes -> Record(data, source, line), one at a time, and never through Arrow for JSON.

Reading goes on after a mistake: what cannot be read comes out as Malformed, in its place.
"""

from collections.abc import Iterator, Sequence
from io import BufferedReader
from pathlib import Path, PurePosixPath

from finetune.config.files import DATA_SUFFIXES, PACKED_SUFFIXES, is_hub_id
from finetune.data.reading.archive import Archive, NotReadError
from finetune.data.reading.compressed import DAMAGE, open_file, without_packing
from finetune.data.reading.json_files import BOM, not_utf8, other_encoding, read_json
from finetune.data.reading.json_paths import line_and_column
from finetune.data.reading.record import Malformed, Record
from finetune.data.reading.saved import is_saved, saved_by_split, saved_files
from finetune.data.reading.splits import Sorted, Split
from finetune.data.reading.tables import read_arrow, read_csv, read_hub, read_parquet
from finetune.errors import DataError

__all__ = [
    "Malformed",
    "Record",
    "data_files",
    "files_by_split",
    "files_for",
    "is_hub_id",
    "read_records",
    "stray_files",
]

_LINES = (".jsonl", ".jsonlines", ".ndjson")
_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_IN_ZIP = (*_LINES, *_SEPARATORS, ".json", ".txt")


def read_records(path: str | Path, split: Split = "training") -> Iterator[Record | Malformed]:
    """The records of a file, of a folder's files for `split`, or of a Hub id.

    A Hub id is `owner/name` (its split "train") or `owner/name:split`. Raises DataError if nothing is there.
    """
    if Path(path).is_dir():
        return (record for file in files_for(Path(path), split) for record in _read_file(file, split))
    if Path(path).is_file():
        return _read_file(Path(path), split)
    if is_hub_id(str(path)) and not Path(path).parent.exists():  # beside what is here it is a slip of the hand
        return read_hub(str(path))
    raise DataError(f"{path}: no such file or folder")


def data_files(folder: Path) -> list[Path]:
    """The data files directly in `folder`, by name. Raises DataError if there is none."""
    visible = (path for path in folder.iterdir() if not path.name.startswith("."))
    files = sorted(path for path in visible if path.is_file() and _kind(path) in DATA_SUFFIXES)
    if not files:
        raise DataError(f"{folder}: no data file in this folder; expected {', '.join(DATA_SUFFIXES)}")
    return files


def files_for(folder: Path, split: Split) -> list[Path]:
    """The files of a folder that are read for `split`, by their names. Raises DataError if there is none."""
    if is_saved(folder):
        return saved_files(folder, split)
    return [folder / name for name in sorted_files(folder).for_split(split)]


def files_by_split(folder: Path) -> dict[Path, Split]:
    """All files of a folder that are read for something, training files first, and what each is for."""
    if is_saved(folder):
        return saved_by_split(folder)
    return {folder / name: split for name, split in sorted_files(folder).all.items()}


def stray_files(path: Path) -> list[Malformed]:
    """A remark about each data file of a folder or an archive that nothing reads."""
    if path.is_dir():
        stray: Sequence[str] = () if is_saved(path) else sorted_files(path).stray
    else:
        stray = _stray_in_zip(path) if _kind(path) == ".zip" and path.is_file() else ()
    return [Malformed(str(path / name), 1, 0, _STRAY, "W506") for name in stray]


_STRAY = (
    "nothing reads this file: its name has no word for what it is for (train, dev, test), or is that of a note"
)


def sorted_files(folder: Path) -> Sorted:
    """The data files of a folder by what they are for."""
    return Sorted.of(str(folder), [path.name for path in data_files(folder)])


def _kind(path: Path) -> str:
    return without_packing(path).suffix.lower()


def _read_file(path: Path, split: Split) -> Iterator[Record | Malformed]:
    kind = _kind(path)
    if kind not in DATA_SUFFIXES:
        raise DataError(f"{path}: files ending in {kind!r} are not read; expected {', '.join(DATA_SUFFIXES)}")
    if kind == ".parquet":
        return read_parquet(path)
    if kind == ".arrow":
        return read_arrow(path)
    if kind == ".zip":
        return _read_zip(path, split)
    if path.suffix in PACKED_SUFFIXES:
        return _until_damaged(path, _read_opened(path, kind))
    return _read_opened(path, kind)


def _read_zip(path: Path, split: Split) -> Iterator[Record | Malformed]:
    """The records of an archive's files for `split`, each named behind the archive's own path."""
    try:
        with Archive(path, _IN_ZIP) as archive:
            for name in archive.files.for_split(split):
                source = f"{path}/{name}"
                line = 0
                try:
                    with archive.open(name) as file:
                        for record in _read_stream(file, source, PurePosixPath(name).suffix.lower()):
                            line = record.line
                            yield record
                except DAMAGE as error:
                    reason = f"the zip file is damaged from here on: {error}"
                    yield Malformed(source, line + 1, 0, reason, "E114")
    except NotReadError as refused:
        yield Malformed(str(path), 1, 0, str(refused), "E120")


def _stray_in_zip(path: Path) -> Sequence[str]:
    try:
        with Archive(path, _IN_ZIP) as archive:
            return archive.files.stray
    except NotReadError:
        return ()


def _until_damaged(path: Path, records: Iterator[Record | Malformed]) -> Iterator[Record | Malformed]:
    line = 0
    try:
        for record in records:
            line = record.line
            yield record
    except DAMAGE as error:
        reason = f"the {path.suffix[1:]} file is damaged from here on: {error}"
        yield Malformed(str(path), line + 1, 0, reason, "E114")


def _read_opened(path: Path, kind: str) -> Iterator[Record | Malformed]:
    with open_file(path) as file:
        yield from _read_stream(file, str(path), kind)


def _read_stream(file: BufferedReader, source: str, kind: str) -> Iterator[Record | Malformed]:
    if kind in _SEPARATORS:
        yield from read_csv(file, source, _SEPARATORS[kind])
    elif kind == ".txt":
        yield _document(file.read().removeprefix(BOM), source)
    else:
        yield from read_json(file, source, lines_expected=kind in _LINES)


def _document(content: bytes, source: str) -> Record | Malformed:
    """A .txt file is one document."""
    if encoding := other_encoding(content[:4096]):
        return Malformed(source, 1, 1, encoding, "E102")
    try:
        return Record({"text": content.decode()}, source, 1)
    except UnicodeDecodeError as error:
        before = content[: error.start].decode()
        return Malformed(source, *line_and_column(before, len(before)), not_utf8(content[error.start]), "E101")
