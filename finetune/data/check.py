"""Look through a data file before a model is touched: what it holds, what is wrong with it, what would be cut.

One pass, without torch; what it remembers of a row are a hash, a line and two lengths.
"""

import hashlib
import json
import sys
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from finetune.chat.messages import Conversation
from finetune.chat.template import ChatTemplate
from finetune.config.schema import Config, DataConfig
from finetune.data.encode import encode
from finetune.data.formats import PlainText
from finetune.data.intake import SHOWN, Intake, wanted_format
from finetune.data.ledger import Ledger
from finetune.data.records import Malformed, Record
from finetune.errors import DataError, TemplateError

PERCENTILES = (50, 90, 95, 99, 100)


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What was found in a file.

    duplicates: (place, place of the first) of rows equal as JSON. With a template also the ledger, `lengths`
    (tokens of a conversation at PERCENTILES), `supervised` (share of all tokens that is learnt), and the limit.
    """

    path: str
    rows: int
    format: str
    why: str
    problems: tuple[Malformed, ...]
    counts: Mapping[str, int]
    duplicates: tuple[tuple[str, str], ...]
    ledger: Ledger | None = None
    lengths: Mapping[int, int] = field(default_factory=dict)
    supervised: float = 0.0
    limit: int = 0

    @property
    def ok(self) -> bool:
        """Whether every row can be used as it stands."""
        return not self.problems and self.rows > 0

    def lines(self) -> list[str]:
        """For the screen."""
        lines = [str(problem) for problem in self.problems[:SHOWN]]
        if len(self.problems) > SHOWN:
            lines.append(f"… and {len(self.problems) - SHOWN:,} more records that cannot be used")
        lines.append(f"{self.path}: {self.rows:,} rows, {len(self.problems):,} malformed")
        lines.append(f"format: {self.format or 'unknown'}" + (f", because {self.why}" if self.why else ""))
        lines += [f"{name}: {count:,}" for name, count in self.counts.items() if count]
        if self.duplicates:
            line, first = self.duplicates[0]
            lines.append(f"duplicate rows: {len(self.duplicates):,}, the first at {line}, equal to {first}")
        return lines + self._token_lines()

    def _token_lines(self) -> list[str]:
        if self.ledger is None:
            return []
        shown = ", ".join(f"{self.lengths[p]:,} ({_percentile(p)})" for p in PERCENTILES if p in self.lengths)
        lines = [f"tokens of a conversation: {shown}; the limit is {self.limit:,}"] if shown else []
        return [*lines, f"learnt: {self.supervised:.1%} of all tokens", *self.ledger.lines()]

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        described: dict[str, Any] = {
            "file": self.path,
            "rows": self.rows,
            "format": self.format,
            "why": self.why,
            "counts": dict(self.counts),
            "problems": [problem.as_dict() for problem in self.problems],
            "duplicates": [{"at": line, "equal_to": first} for line, first in self.duplicates],
        }
        if self.ledger is not None:
            lengths = {_percentile(p): length for p, length in self.lengths.items()}
            described |= {"ledger": self.ledger.as_dict(), "lengths": lengths}
            described |= {"supervised_share": self.supervised, "limit": self.limit}
        return described


def _percentile(percent: int) -> str:
    return "longest" if percent == 100 else f"p{percent}"


def check_file(
    path: str | Path, template: ChatTemplate | None = None, config: Config | None = None
) -> CheckReport:
    """Read all of `path` and report; without `template` no tokens are counted. `config`: format and limits.

    Raises DataError only where there is nothing to read; what is wrong inside stands in the report.
    """
    config = config or Config(data_config=DataConfig(train_file=str(path)))
    intake = Intake(Path(path), wanted_format(config.data_config))
    survey = _Survey(template, config.data_config, config.max_input_length + config.max_output_length)
    for record in intake.records():
        parsed = intake.parse(record)
        if isinstance(record, Record) and not isinstance(parsed, Malformed):
            survey.add(record, parsed, intake)
    return survey.report(intake)


@dataclass(slots=True)
class _Survey:
    template: ChatTemplate | None
    data_config: DataConfig
    limit: int
    counts: dict[str, int] = field(default_factory=dict)
    hashes: "array[int]" = field(default_factory=lambda: array("Q"))
    lines: "array[int]" = field(default_factory=lambda: array("I"))
    sources: "array[int]" = field(default_factory=lambda: array("H"))
    names: dict[str, int] = field(default_factory=dict)
    lengths: "array[int]" = field(default_factory=lambda: array("i"))
    tokens: int = 0
    supervised: int = 0
    ledger: Ledger = field(default_factory=Ledger)

    def add(self, record: Record, conversation: Conversation | PlainText, intake: Intake) -> None:
        self.hashes.append(_hash(record.data))
        self.lines.append(record.line)
        self.sources.append(self.names.setdefault(record.source, len(self.names)))
        for name, count in _counts(conversation).items():
            self.counts[name] = self.counts.get(name, 0) + count
        if self.template is None:
            return
        try:
            self._measure(conversation, self.template)
        except (TemplateError, DataError) as error:
            intake.refuse(Malformed(record.source, record.line, 0, str(error), "E301"))

    def _measure(self, conversation: Conversation | PlainText, template: ChatTemplate) -> None:
        train_on, overflow = self.data_config.train_on, self.data_config.overflow
        is_text = isinstance(conversation, PlainText)
        whole, fate = encode(
            conversation, template, max_length=self.limit if is_text else sys.maxsize, train_on=train_on
        )
        longest = max((len(example.input_ids) for example in whole), default=0)
        if longest > self.limit:
            _, fate = encode(
                conversation, template, max_length=self.limit, train_on=train_on, overflow=overflow
            )
        self.ledger.count(fate)
        if whole:
            self.lengths.append(longest)
            self.tokens += sum(len(example.input_ids) for example in whole)
            self.supervised += sum(int(example.loss_mask.sum()) for example in whole)

    def report(self, intake: Intake) -> CheckReport:
        found, why = intake.format()
        problems = tuple(intake.problems)
        duplicates = tuple(self._duplicates())
        report = CheckReport(str(intake.path), intake.rows, found, why, problems, self.counts, duplicates)
        return report if self.template is None else self._with_tokens(report)

    def _with_tokens(self, report: CheckReport) -> CheckReport:
        self.ledger.rows = report.rows
        self.ledger.count("malformed", len(report.problems))
        self.ledger.check()
        lengths = np.frombuffer(self.lengths, dtype=np.int32)
        found = np.percentile(lengths, PERCENTILES, method="inverted_cdf") if len(lengths) else ()
        shares = {percent: int(length) for percent, length in zip(PERCENTILES, found, strict=False)}
        learnt = self.supervised / max(1, self.tokens)
        return replace(report, ledger=self.ledger, lengths=shares, supervised=learnt, limit=self.limit)

    def _duplicates(self) -> Iterator[tuple[str, str]]:
        """Rows whose hash an earlier row has, each with the first such row."""
        hashes = np.frombuffer(self.hashes, dtype=np.uint64)
        _, first, group = np.unique(hashes, return_index=True, return_inverse=True)
        names = list(self.names)
        for row in np.flatnonzero(first[group] != np.arange(len(hashes))).tolist():
            yield self._place(row, names), self._place(int(first[group[row]]), names)

    def _place(self, row: int, names: Sequence[str]) -> str:
        return f"{names[self.sources[row]]}:{self.lines[row]}"


def _hash(data: Mapping[str, Any]) -> int:
    text = json.dumps(data, sort_keys=True, ensure_ascii=False, default=str)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


def _counts(conversation: Conversation | PlainText) -> dict[str, int]:
    if isinstance(conversation, PlainText):
        return {"documents": 1}
    messages = conversation.messages
    return {
        "conversations": 1,
        "assistant turns": sum(message.role == "assistant" for message in messages),
        "turns not to be learnt": sum(not message.train for message in messages),
        "conversations with tools": int(bool(conversation.tools)),
        "tool calls": sum(len(message.tool_calls) for message in messages),
        "turns with thoughts": sum(message.reasoning is not None for message in messages),
        "images": sum(len(message.images) for message in messages),
    }
