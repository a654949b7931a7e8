"""Rows as records: CSV, parquet, and data sets on the Hugging Face Hub.

A row has no columns to point at. Of a CSV file it is known by the physical line on which it begins, of the
others by its number from 1.
"""

import csv
from collections.abc import Iterator, Sequence
from io import BufferedReader, TextIOWrapper
from pathlib import Path
from typing import Any

from finetune.data.reading.json_files import other_encoding
from finetune.data.reading.record import Malformed, Record
from finetune.errors import DataError

_LONGEST_CELL = 2**31 - 1  # Python's own limit, 131,072 characters, is shorter than some conversations


def read_csv(file: BufferedReader, source: str, delimiter: str) -> Iterator[Record | Malformed]:
    """Rows whose fields the first row names. Text is quoted as Excel does it; a quote in a text is doubled."""
    if encoding := other_encoding(file.peek(4096)):
        yield Malformed(source, 1, 1, encoding, "E102")
        return
    rows = _rows(file, source, delimiter)
    first = next(rows, None)
    if first is None:
        return
    names = first if isinstance(first, Malformed) else _header(*first, source, delimiter)
    if isinstance(names, Malformed):
        yield names
        return
    for row in rows:
        yield row if isinstance(row, Malformed) else _csv_record(names, *row, source)


def _rows(file: BufferedReader, source: str, delimiter: str) -> Iterator[tuple[list[str], int] | Malformed]:
    """(cells, the line on which they begin) of each row that is not blank."""
    csv.field_size_limit(_LONGEST_CELL)
    # Lines end in \n alone, so that their count is the file's; the csv module itself takes the \r of \r\n.
    # Bytes that are not UTF-8 become half surrogates, and are refused where they stand.
    text = TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="\n")
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Malformed(source, line, 0, _quoting(error), "E118")
        else:
            if cells:
                yield _no_text(cells, line, source) or (cells, line)


def _quoting(error: csv.Error) -> str:
    if "unexpected end" in str(error):
        return "a quote that opens in this row is never closed; double each quote inside a text"
    if "new-line" in str(error):
        return "a carriage return outside quotes; end lines with \\n or \\r\\n"
    return f"not valid CSV: {error}; double each quote inside a text"


def _no_text(cells: Sequence[str], line: int, source: str) -> Malformed | None:
    for number, cell in enumerate(cells, 1):
        if "\0" in cell:
            return Malformed(
                source, line, 0, f"cell {number}: a NUL byte; the file is damaged or not text", "E103"
            )
        if not cell.isascii() and any("\ud800" <= letter <= "\udfff" for letter in cell):
            reason = f"cell {number}: bytes that are not UTF-8; save the file as UTF-8"
            return Malformed(source, line, 0, reason, "E101")
    return None


def _header(cells: Sequence[str], line: int, source: str, delimiter: str) -> Sequence[str] | Malformed:
    """The fields' names, or what is wrong with them."""
    names = [cell.strip() for cell in cells]
    twice = next((name for name in names if names.count(name) > 1 and name), None)
    if "" in names:
        reason = f"column {names.index('') + 1} has no name; the first row names the fields"
    elif twice is not None:
        reason = f"the field {twice!r} stands twice in the first row"
    elif len(names) == 1 and (other := next((sign for sign in ";\t,|" if sign in names[0]), None)):
        reason = f"one field only, {names[0]!r}: the columns are separated by {other!r}, not by {delimiter!r}"
    else:
        return names
    return Malformed(source, line, 0, reason, "E116")


def _csv_record(names: Sequence[str], cells: Sequence[str], line: int, source: str) -> Record | Malformed:
    if len(cells) == len(names):
        return Record(dict(zip(names, cells, strict=True)), source, line)
    reason = (
        f"{len(cells)} cells, but the first row names {len(names)} fields; quote a text that holds a separator"
    )
    return Malformed(source, line, 0, reason, "E117")


def read_parquet(path: Path) -> Iterator[Record | Malformed]:
    """Rows of a parquet file."""
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            rows = (row for batch in file.iter_batches() for row in batch.to_pylist())
            for number, row in enumerate(rows, 1):
                yield Record(without_nulls(row), str(path), number)
    except (ArrowException, OSError) as error:
        yield Malformed(str(path), 1, 0, f"cannot be read as parquet: {error}", "E115")


def read_arrow(path: Path) -> Iterator[Record | Malformed]:
    """Rows of an Arrow file, as `datasets` saves them (a stream) or as Feather has them."""
    from pyarrow import ArrowException, ArrowInvalid, ipc, memory_map

    try:
        with memory_map(str(path)) as file:
            try:
                batches: Iterator[Any] = iter(ipc.open_stream(file))
            except ArrowInvalid:
                feather = ipc.open_file(file)
                batches = (feather.get_batch(number) for number in range(feather.num_record_batches))
            rows = (row for batch in batches for row in batch.to_pylist())
            for number, row in enumerate(rows, 1):
                yield Record(without_nulls(row), str(path), number)
    except (ArrowException, OSError) as error:
        yield Malformed(str(path), 1, 0, f"cannot be read as an Arrow file: {error}", "E115")


def read_hub(name: str) -> Iterator[Record | Malformed]:
    """Rows of a data set on the Hub: `owner/name` (its split "train") or `owner/name:split`."""
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
