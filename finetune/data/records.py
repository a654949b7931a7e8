"""From files to records: bytes -> Record(data, source, line), one at a time, and never through Arrow for JSON.

Reading goes on after a mistake: what cannot be read comes out as Malformed, in its place. Lines are physical
lines of the file (blank ones are skipped but counted), columns are characters, both from 1.
"""

import gzip
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from typing import Any

from finetune.data.fields import json_kind
from finetune.data.json_arrays import concatenated, elements
from finetune.data.strict_json import NotJSONError, decode_at, loads, skip_blank
from finetune.errors import DataError

SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet", ".txt")
_BOM = b"\xef\xbb\xbf"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(:[\w.\[\]%-]+)?")


@dataclass(frozen=True, slots=True)
class Record:
    """One JSON object of a data file and the line where it begins."""

    data: Mapping[str, Any]
    source: str
    line: int


@dataclass(frozen=True, slots=True)
class Malformed:
    """A place in a data file that is no record, and why; column 0: the record as a whole.

    code: names the kind of mistake; `finetune docs CODE` says more.
    """

    source: str
    line: int
    column: int
    reason: str
    code: str

    def as_dict(self) -> dict[str, Any]:
        """For a report."""
        place = {"file": self.source, "line": self.line, "column": self.column}
        return {**place, "code": self.code, "reason": self.reason}

    def as_json(self) -> str:
        """A line of rejected.jsonl, without its line break."""
        return json.dumps(self.as_dict(), ensure_ascii=False)

    def __str__(self) -> str:
        place = f"{self.source}:{self.line}:{self.column}" if self.column else f"{self.source}:{self.line}"
        return f"{place}: {self.code} {self.reason}"


def read_records(path: str | Path) -> Iterator[Record | Malformed]:
    """The records of a file, of a folder's data files in the order of their names, or of a Hub id.

    A Hub id is `owner/name` (its split "train") or `owner/name:split`. Raises DataError if nothing is there.
    """
    if Path(path).is_dir():
        return (record for file in data_files(Path(path)) for record in _read_file(file))
    if Path(path).is_file():
        return _read_file(Path(path))
    if is_hub_id(str(path)):
        return _read_hub(str(path))
    raise DataError(f"{path}: no such file or folder")


def is_hub_id(name: str) -> bool:
    """Whether `name` can only mean a data set on the Hub: `owner/name`, no file, and no file's ending."""
    is_file = name.endswith((*SUFFIXES, ".gz")) or Path(name).exists()
    return not is_file and _HUB_ID.fullmatch(name) is not None


def data_files(folder: Path) -> list[Path]:
    """The data files directly in `folder`, by name. Raises DataError if there is none."""
    visible = (path for path in folder.iterdir() if not path.name.startswith("."))
    files = sorted(path for path in visible if path.is_file() and _kind(path) in SUFFIXES)
    if not files:
        raise DataError(f"{folder}: no data file in this folder; expected {', '.join(SUFFIXES)}")
    return files


def _kind(path: Path) -> str:
    return (path.with_suffix("") if path.suffix == ".gz" else path).suffix.lower()


def _read_file(path: Path) -> Iterator[Record | Malformed]:
    if path.suffix == ".gz":
        return _until_damaged(path, _read_kind(path))
    return _read_kind(path)


def _until_damaged(path: Path, records: Iterator[Record | Malformed]) -> Iterator[Record | Malformed]:
    line = 0
    try:
        for record in records:
            line = record.line
            yield record
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        yield Malformed(str(path), line + 1, 0, f"the gzip file is damaged from here on: {error}", "E114")


def _read_kind(path: Path) -> Iterator[Record | Malformed]:
    kind = _kind(path)
    if kind in (".jsonl", ".ndjson", ".json"):
        return _read_json(path)
    if kind == ".parquet":
        return _read_parquet(path)
    if kind == ".txt":
        return _read_text(path)
    raise DataError(f"{path}: files ending in {kind!r} are not read; expected {', '.join(SUFFIXES)}")


def _open(path: Path) -> BufferedIOBase:
    try:
        file = path.open("rb")
    except OSError as error:
        raise DataError(f"{path}: cannot be opened: {error.strerror}") from None
    return gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else file


def _read_json(path: Path) -> Iterator[Record | Malformed]:
    source = str(path)
    with _open(path) as file:
        head = file.read(4096)
        file.seek(0)
        if encoding := _other_encoding(head):
            yield Malformed(source, 1, 1, f"the file is {encoding}, not UTF-8; save it as UTF-8", "E102")
        elif _has_record_per_line(head, file, _kind(path)):
            yield from _read_lines(file, source)
        else:
            yield from _read_values(file.read(), source)


def _other_encoding(head: bytes) -> str | None:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16"
    zeros = head.count(0)
    return "UTF-16 or UTF-32" if zeros and zeros >= len(head) // 3 else None


def _has_record_per_line(head: bytes, file: BufferedIOBase, kind: str) -> bool:
    """False for an array, and for objects written over several lines (as pretty-printers do)."""
    first = head.removeprefix(_BOM).lstrip()
    if first.startswith(b"["):
        return False
    if not re.fullmatch(rb"\{\s*", first.split(b"\n")[0]):
        return True
    text = file.read().decode(errors="replace").removeprefix("\ufeff")
    file.seek(0)
    try:
        decode_at(text, skip_blank(text, 0))
    except NotJSONError:
        return kind != ".json"
    return False


def _read_lines(file: BufferedIOBase, source: str) -> Iterator[Record | Malformed]:
    for number, line in enumerate(file, 1):
        if number == 1:
            line = line.removeprefix(_BOM)
        if line.isspace() or not line:
            continue
        yield _line_record(line, source, number)


def _line_record(line: bytes, source: str, number: int) -> Record | Malformed:
    try:
        text = line.rstrip(b"\r\n").decode()
    except UnicodeDecodeError as error:
        column = len(line[: error.start].decode()) + 1
        return Malformed(source, number, column, _not_utf8(line[error.start]), "E101")
    if "\0" in text:
        return Malformed(
            source, number, text.index("\0") + 1, "a NUL byte; the file is damaged or not text", "E103"
        )
    try:
        return _record(loads(text), source, number, 1)
    except NotJSONError as problem:
        cut = "cut off" in problem.reason and not line.endswith(b"\n")
        reason = problem.reason + ("; the file ends here without a line break" if cut else "")
        return Malformed(source, number, problem.position + 1, reason, problem.code)


def _not_utf8(byte: int) -> str:
    return f"the byte 0x{byte:02X} is not UTF-8; save the file as UTF-8"


def _record(value: Any, source: str, line: int, column: int) -> Record | Malformed:
    if isinstance(value, dict):
        return Record(value, source, line)
    return Malformed(
        source, line, column, f"a record is a JSON object in braces; found {json_kind(value)}", "E112"
    )


def _read_values(content: bytes, source: str) -> Iterator[Record | Malformed]:
    """The elements of one JSON array, or objects one behind the other, each over as many lines as it likes."""
    # Bytes that are not UTF-8 become half surrogates, which the decoder refuses where they stand.
    text = content.removeprefix(_BOM).decode(errors="surrogateescape")
    start = skip_blank(text, 0)
    values = elements(text, start + 1) if text[start : start + 1] == "[" else concatenated(text, start)
    line, counted = 1, 0
    for position, value in values:
        place = value.position if isinstance(value, NotJSONError) else position
        line, counted = line + text.count("\n", counted, place), place
        column = place - text.rfind("\n", 0, place)
        if isinstance(value, NotJSONError):
            yield Malformed(source, line, column, value.reason, value.code)
        else:
            yield _record(value, source, line, column)


def _read_text(path: Path) -> Iterator[Record | Malformed]:
    """A .txt file is one document."""
    with _open(path) as file:
        content = file.read().removeprefix(_BOM)
    if encoding := _other_encoding(content[:4096]):
        yield Malformed(str(path), 1, 1, f"the file is {encoding}, not UTF-8; save it as UTF-8", "E102")
        return
    try:
        yield Record({"text": content.decode()}, str(path), 1)
    except UnicodeDecodeError as error:
        before = content[: error.start].decode()
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        yield Malformed(str(path), line, column, _not_utf8(content[error.start]), "E101")


def _read_parquet(path: Path) -> Iterator[Record | Malformed]:
    """Rows, numbered from 1 as lines are."""
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            rows = (row for batch in file.iter_batches() for row in batch.to_pylist())
            for number, row in enumerate(rows, 1):
                yield Record(without_nulls(row), str(path), number)
    except (ArrowException, OSError) as error:
        yield Malformed(str(path), 1, 0, f"cannot be read as parquet: {error}", "E115")


def _read_hub(name: str) -> Iterator[Record | Malformed]:
    """Rows of a data set on the Hugging Face Hub, numbered from 1 as lines are."""
    from datasets import load_dataset

    repository, _, split = name.partition(":")
    try:
        rows = load_dataset(repository, split=split or "train")
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(f"{name}: no such file here, and as a Hub id it cannot be loaded: {error}") from None
    for number, row in enumerate(rows, 1):
        yield Record(without_nulls(row), name, number)


def without_nulls(value: Any) -> Any:
    """`value` without null fields, at every depth: Arrow puts one for each field that some other row has."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in value if item is not None]
    return value
