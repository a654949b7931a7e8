"""One record of a data file, and one place in it that is wrong."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from finetune.chat.messages import KeyPath
from finetune.data.reading.json_paths import line_and_column, offset_of


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
    record: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)
    """What stood there, where it could be read as far as that."""

    def as_dict(self) -> dict[str, Any]:
        """For a report."""
        place = {"file": self.source, "line": self.line, "column": self.column}
        return {**place, "code": self.code, "reason": self.reason}

    def as_json(self) -> str:
        """A line of rejected.jsonl, without its line break: the place, the reason and the record itself."""
        record = {} if self.record is None else {"record": self.record}
        return json.dumps({**self.as_dict(), **record}, ensure_ascii=False, default=str)

    def __str__(self) -> str:
        place = f"{self.source}:{self.line}:{self.column}" if self.column else f"{self.source}:{self.line}"
        return f"{place}: {self.code} {self.reason}"


@dataclass(frozen=True, slots=True)
class Record:
    """One JSON object of a data file and the line where it begins; of a table, one row.

    text, start, column: the JSON that it was read from, and where in it; None for a row, which has no columns.
    """

    data: Mapping[str, Any]
    source: str
    line: int
    text: str | None = field(default=None, compare=False, repr=False)
    start: int = field(default=0, compare=False, repr=False)
    column: int = field(default=1, compare=False, repr=False)

    def malformed(self, code: str, reason: str, path: KeyPath = ()) -> Malformed:
        """What is wrong with the value that `path` leads to, at its physical line and column.

        Of a row the line is that of the row, and the field is named.
        """
        if self.text is None:
            named = f"{path[0]}: " if path and path[0] in self.data and str(path[0]) not in reason else ""
            return Malformed(self.source, self.line, 0, named + reason, code, self.data)
        offset = offset_of(self.text, self.start, path)
        place = line_and_column(self.text, offset, self.start, self.line, self.column)
        return Malformed(self.source, *place, reason, code, self.data)
