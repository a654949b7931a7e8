"""The file that `finetune generate` writes: who may go on in it, and where.

A line says what was asked and who answered, so that a stopped run is continued by the same work only:

    messages, tools   the question as text; the last message is the answer
    asked             a hash of messages, tools and the pictures' content
    model, sampling   the path of what answered, and how tokens were chosen
    answered_by       hashes of weights, adapter, template … (author.py)
"""

import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from finetune.disk import encoded, storage_errors
from finetune.errors import FolderInUseError
from finetune.plain_json import parse_json

Row = dict[str, Any]

_BEGINNING = b'{"origin": '
_ADVICE = "give another OUTPUT, or remove this one"


@contextmanager
def opened(output: Path) -> Iterator[BinaryIO]:
    """The output file, made if need be, for this process alone."""
    if output.is_dir():
        raise FolderInUseError(f"{output}: is a folder; OUTPUT is the file to write")
    if output.exists() and not output.is_file():
        raise FolderInUseError(f"{output}: is no regular file; half-done work could not be found again in it")
    with storage_errors(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(output, os.O_RDWR | os.O_CREAT, 0o666)
    with os.fdopen(descriptor, "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderInUseError(
                f"{output}: another process is writing it; wait for it, or stop it"
            ) from None
        yield file


def whole_lines(file: BinaryIO) -> tuple[list[Row | None], int]:
    """The rows in `file`, None for a line that is no row, and how many bytes they take.

    What follows the last line end is half a line; one that does not begin like ours is no row either.
    """
    content = file.read()
    size = content.rfind(b"\n") + 1
    rows = [_parse(line) for line in content[:size].splitlines()]
    rest = content[size:]
    ours = rest.startswith(_BEGINNING) or _BEGINNING.startswith(rest)
    return (rows if ours else [*rows, None]), size


def _parse(line: bytes) -> Row | None:
    try:
        row = parse_json(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def require_same_work(output: Path, done: Sequence[Row | None], expected: Iterable[Row], count: int) -> None:
    """Refuse to go on behind lines that are not the first of this work. `expected`: its lines without answers.

    Raises FolderInUseError that names the first line that differs, and in what.
    """
    if len(done) > count:
        raise FolderInUseError(f"{output}: has {len(done)} lines, INPUT {count} conversations; {_ADVICE}")
    for number, (row, wanted) in enumerate(zip(done, expected, strict=False), start=1):
        difference = _difference(row, wanted)
        if difference:
            raise FolderInUseError(f"{output}:{number}: {difference}; {_ADVICE}")


def _difference(row: Row | None, wanted: Row) -> str | None:
    """What makes a line of OUTPUT foreign to this work; None for one that belongs to it."""
    if row is None or not isinstance(row.get("messages"), list):
        return "not a line that `finetune generate` wrote"
    if row["messages"][:-1] != wanted["messages"]:
        return f"answers another conversation than {wanted['origin']}"
    if row.get("tools") != wanted.get("tools"):
        return f"answers {wanted['origin']} with other tools"
    if row.get("model") != wanted["model"]:
        return f"was written by {row.get('model')}, not by {wanted['model']}"
    if row.get("sampling") != wanted["sampling"]:
        return "was written with other sampling settings"
    if "asked" not in row:
        return "was written by an earlier version, which did not note the weights and pictures it saw"
    if row["asked"] != wanted["asked"]:
        return f"answers {wanted['origin']} with other content in its pictures"
    return _other_author(row.get("answered_by"), wanted.get("answered_by"))


def _other_author(saved: Any, now: Mapping[str, str] | None) -> str | None:
    if saved == now:
        return None
    before, after = (value if isinstance(value, dict) else {} for value in (saved, now))
    parts = [name for name in dict.fromkeys([*after, *before]) if before.get(name) != after.get(name)]
    return f"was written with different {', '.join(parts)}"


def append(file: BinaryIO, output: Path, author: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """Add lines, and wait until they lie on the disk. Raises StorageError."""
    content = encoded("".join(f"{json.dumps({**row, **author}, ensure_ascii=False)}\n" for row in rows))
    with storage_errors(output, needed=len(content)):
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
