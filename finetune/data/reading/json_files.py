"""JSON lines, one JSON array, or objects one behind the other: the bytes of a file -> records.

Lines are physical lines of the file (blank ones are skipped but counted), columns are characters, both from 1.
"""

import re
from collections.abc import Iterator
from io import BufferedReader, BytesIO
from typing import IO, Any

from finetune.data.reading.fields import json_kind
from finetune.data.reading.json_arrays import concatenated, elements
from finetune.data.reading.json_paths import line_and_column
from finetune.data.reading.record import Malformed, Record
from finetune.data.reading.strict_json import NotJSONError, decode_at, loads, skip_blank

BOM = b"\xef\xbb\xbf"


def read_json(file: BufferedReader, source: str, *, lines_expected: bool) -> Iterator[Record | Malformed]:
    """The records of a file, whatever its ending says; `lines_expected` only decides what is neither."""
    head = file.peek(4096)
    if encoding := other_encoding(head):
        yield Malformed(source, 1, 1, encoding, "E102")
        return
    first = head.removeprefix(BOM).lstrip()
    if first.startswith(b"["):
        yield from _read_values(_text(file), source)
    elif re.fullmatch(rb"\{\s*", first.split(b"\n")[0]):
        yield from _read_either(file.read(), source, lines_expected)
    else:
        yield from _read_lines(file, source)


def other_encoding(head: bytes) -> str | None:
    """What to say where a file's first bytes show that it is not UTF-8."""
    zeros = head.count(0)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        found = "UTF-16"
    elif zeros and zeros >= len(head) // 3:
        found = "UTF-16 or UTF-32"
    else:
        return None
    return f"the file is {found}, not UTF-8; save it as UTF-8"


def not_utf8(byte: int) -> str:
    """What to say of a byte."""
    return f"the byte 0x{byte:02X} is not UTF-8; save the file as UTF-8"


def _read_either(content: bytes, source: str, lines_expected: bool) -> Iterator[Record | Malformed]:
    """A file whose first line is one brace: an object over several lines, or a bad line."""
    text = _decoded(content)
    try:
        decode_at(text, skip_blank(text, 0))
    except NotJSONError:
        if lines_expected:
            return _read_lines(BytesIO(content), source)
    return _read_values(text, source)


def _read_lines(file: IO[bytes], source: str) -> Iterator[Record | Malformed]:
    for number, line in enumerate(file, 1):
        if number == 1:
            line = line.removeprefix(BOM)
        if line.isspace() or not line:
            continue
        yield _line_record(line, source, number)


def _line_record(line: bytes, source: str, number: int) -> Record | Malformed:
    try:
        text = line.rstrip(b"\r\n").decode()
    except UnicodeDecodeError as error:
        column = len(line[: error.start].decode()) + 1
        return Malformed(source, number, column, not_utf8(line[error.start]), "E101")
    if "\0" in text:
        reason = "a NUL byte; the file is damaged or not text"
        return Malformed(source, number, text.index("\0") + 1, reason, "E103")
    try:
        value = loads(text)
    except NotJSONError as problem:
        cut = problem.code == "E105" and not line.endswith(b"\n")
        reason = problem.reason + ("; the file ends here without a line break" if cut else "")
        return Malformed(source, number, problem.position + 1, reason, problem.code)
    if isinstance(value, dict):
        return Record(value, source, number, text)
    return _no_object(value, source, number, skip_blank(text, 0) + 1)


def _no_object(value: Any, source: str, line: int, column: int) -> Malformed:
    reason = f"a record is a JSON object in braces; found {json_kind(value)}"
    return Malformed(source, line, column, reason, "E112")


def _read_values(text: str, source: str) -> Iterator[Record | Malformed]:
    """The elements of one JSON array, or objects one behind the other, each over as many lines as it likes."""
    start = skip_blank(text, 0)
    values = elements(text, start + 1) if text[start : start + 1] == "[" else concatenated(text, start)
    before, line, column = 0, 1, 1
    for position, value in values:
        line, column = line_and_column(text, position, before, line, column)
        before = position
        if isinstance(value, dict):
            yield Record(value, source, line, text, position, column)
        elif isinstance(value, NotJSONError):
            place = line_and_column(text, value.position, position, line, column)
            yield Malformed(source, *place, value.reason, value.code)
        else:
            yield _no_object(value, source, line, column)


def _text(file: IO[bytes]) -> str:
    """The rest of a file; its bytes are let go of before the text is read."""
    return _decoded(file.read())


def _decoded(content: bytes) -> str:
    """Bytes that are not UTF-8 become half surrogates, which the decoder refuses where they stand."""
    return content.removeprefix(BOM).decode(errors="surrogateescape")
