"""From files to records: bytes -> Record(data, source, line), one at a time, and never through Arrow for JSON.

Reading goes on after a mistake: what cannot be read comes out as Malformed, in its place.
"""

from collections.abc import Iterator
from pathlib import Path

from finetune.config.files import DATA_SUFFIXES, PACKED_SUFFIXES, is_hub_id
from finetune.data.reading.compressed import DAMAGE, open_file, without_packing
from finetune.data.reading.json_files import BOM, not_utf8, other_encoding, read_json
from finetune.data.reading.json_paths import line_and_column
from finetune.data.reading.record import Malformed, Record
from finetune.data.reading.tables import read_csv, read_hub, read_parquet
from finetune.errors import DataError

__all__ = ["Malformed", "Record", "data_files", "is_hub_id", "read_records"]

_LINES = (".jsonl", ".ndjson")
_SEPARATORS = {".csv": ",", ".tsv": "\t"}


def read_records(path: str | Path) -> Iterator[Record | Malformed]:
    """The records of a file, of a folder's data files in the order of their names, or of a Hub id.

    A Hub id is `owner/name` (its split "train") or `owner/name:split`. Raises DataError if nothing is there.
    """
    if Path(path).is_dir():
        return (record for file in data_files(Path(path)) for record in _read_file(file))
    if Path(path).is_file():
        return _read_file(Path(path))
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


def _kind(path: Path) -> str:
    return without_packing(path).suffix.lower()


def _read_file(path: Path) -> Iterator[Record | Malformed]:
    kind = _kind(path)
    if kind not in DATA_SUFFIXES:
        raise DataError(f"{path}: files ending in {kind!r} are not read; expected {', '.join(DATA_SUFFIXES)}")
    if kind == ".parquet":
        return read_parquet(path)
    if path.suffix in PACKED_SUFFIXES:
        return _until_damaged(path, _read_opened(path, kind))
    return _read_opened(path, kind)


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
        if kind in _SEPARATORS:
            yield from read_csv(file, str(path), _SEPARATORS[kind])
        elif kind == ".txt":
            yield _document(file.read().removeprefix(BOM), str(path))
        else:
            yield from read_json(file, str(path), lines_expected=kind in _LINES)


def _document(content: bytes, source: str) -> Record | Malformed:
    """A .txt file is one document."""
    if encoding := other_encoding(content[:4096]):
        return Malformed(source, 1, 1, encoding, "E102")
    try:
        return Record({"text": content.decode()}, source, 1)
    except UnicodeDecodeError as error:
        before = content[: error.start].decode()
        return Malformed(source, *line_and_column(before, len(before)), not_utf8(content[error.start]), "E101")
