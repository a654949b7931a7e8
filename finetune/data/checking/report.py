"""What `finetune check` found, of each file and of all together."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.chat.messages import Conversation, Message
from finetune.chat.sight import Sight
from finetune.data.checking import thoughts
from finetune.data.checking.findings import Findings
from finetune.data.encode import Encoded, Source, turn_lengths
from finetune.data.ledger import Ledger
from finetune.data.reading.record import Malformed

PERCENTILES = (50, 90, 95, 99, 100)


@dataclass(slots=True)
class FileReport:
    """What one file holds.

    split: training, validation or test. With a template also: the ledger; `lengths` and `answers`, how many
    conversations and how many learnt turns have so many tokens; `pictures`, likewise; `tokens`, and those of
    them that are `learnt`. thoughts: learnt turns with, without and with empty ones, with a template as they
    would be taught.
    """

    path: str
    split: str
    rows: int = 0
    format: str = ""
    why: str = ""
    counts: Counter[str] = field(default_factory=Counter)
    ledger: Ledger | None = None
    lengths: Counter[int] = field(default_factory=Counter)
    answers: Counter[int] = field(default_factory=Counter)
    pictures: Counter[int] = field(default_factory=Counter)
    learnt: int = 0
    tokens: int = 0
    thoughts: Counter[str] = field(default_factory=Counter)

    def count(self, source: Source) -> None:
        """Add what a good record holds."""
        if not isinstance(source, Conversation):
            self.counts["documents"] += 1
            return
        counts, messages = self.counts, source.messages
        counts["conversations"] += 1
        for message in messages:
            if message.role == "assistant":
                counts["assistant turns"] += 1
                counts["tool calls"] += len(message.tool_calls)
                counts["turns with thoughts"] += _has_thoughts(message)
                counts["turns not to be learnt"] += not message.train
                counts["turns with a weight of their own"] += message.weight != 1
            counts["images"] += len(message.images)
        counts["conversations with tools"] += bool(source.tools)
        counts["conversations with images"] += bool(source.images)

    def measure(self, whole: Encoded, sight: Sight | None = None) -> int:
        """Add the tokens of a conversation that was encoded whole; returns those of its longest example."""
        examples, _ = whole
        longest = max((len(example.input_ids) for example in examples), default=0)
        if examples:
            self.lengths[longest] += 1
        for example in examples:
            turns = turn_lengths(example)
            self.answers.update(turns)
            self.learnt += sum(turns)
            self.tokens += len(example.input_ids)
            if sight is not None:
                self.pictures.update(sight.tokens(one.width, one.height) for one in example.pictures)
        return longest

    def lines(self) -> list[str]:
        """For the screen."""
        lines = [f"{self.path}: {_plural(self.rows, 'row')} for {self.split}"]
        lines.append(f"  format: {self.format or 'unknown'}" + (f", because {self.why}" if self.why else ""))
        if held := [f"{name}: {count:,}" for name, count in self.counts.items() if count]:
            lines.append(f"  {', '.join(held)}")
        if self.ledger is not None:
            lines += [f"  {line}" for line in self.ledger.lines()]
        return lines

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        described: dict[str, Any] = {"file": self.path, "split": self.split, "rows": self.rows}
        described |= {"format": self.format, "why": self.why, "counts": dict(self.counts)}
        return described if self.ledger is None else described | {"ledger": self.ledger.as_dict()}


def _has_thoughts(message: Message) -> bool:
    """In a field of their own, or at the head of the text."""
    return message.reasoning is not None or message.content.lstrip().startswith("<think>")


def percentiles(lengths: Counter[int]) -> dict[int, int]:
    """Tokens that so many percent of the conversations do not exceed, at PERCENTILES; 100: the longest."""
    if not lengths:
        return {}
    tokens = np.array(sorted(lengths))
    reached = np.cumsum([lengths[length] for length in tokens.tolist()])
    places = np.searchsorted(reached, np.ceil(np.array(PERCENTILES) / 100 * reached[-1]))
    return dict(zip(PERCENTILES, tokens[places].tolist(), strict=True))


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What was found. Lengths, shares and ledgers are there with a template only.

    writing: the share of each writing system in all letters. repeated, unspelt: good records that `fix` leaves
    out, by their place among all good ones: exact repetitions, and those that the template cannot write.
    """

    path: str
    files: tuple[FileReport, ...]
    findings: Findings
    writing: dict[str, float]
    repeated: NDArray[np.int64]
    unspelt: Mapping[int, Malformed]
    limit: int
    thinking: str = "train"

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.files)

    @property
    def ok(self) -> bool:
        """Whether every row can be used as it stands."""
        return not self.findings.errors and self.rows > 0

    @property
    def problems(self) -> list[Malformed]:
        """The first records that cannot be used, of each kind of mistake."""
        return [
            one for code in self.findings.codes() if code.startswith("E") for one in self.findings.kept[code]
        ]

    @property
    def format(self) -> str:
        return ", ".join(dict.fromkeys(file.format for file in self.files if file.format))

    @property
    def why(self) -> str:
        return "; ".join(dict.fromkeys(file.why for file in self.files if file.why))

    @property
    def counts(self) -> Counter[str]:
        """What all files hold."""
        return sum((file.counts for file in self.files), Counter[str]())

    @property
    def lengths(self) -> dict[int, int]:
        """Percent -> tokens of a conversation that so many percent do not exceed, over all files."""
        return percentiles(sum((file.lengths for file in self.files), Counter[int]()))

    @property
    def answers(self) -> dict[int, int]:
        """Percent -> tokens of a learnt turn, likewise."""
        return percentiles(sum((file.answers for file in self.files), Counter[int]()))

    @property
    def pictures(self) -> Counter[int]:
        """Tokens -> how many pictures take so many, in the examples of all files."""
        return sum((file.pictures for file in self.files), Counter[int]())

    @property
    def thoughts(self) -> Counter[str]:
        """Learnt turns with thoughts, without, and with empty ones, of the files for training."""
        training = [file.thoughts for file in self.files if file.split == "training"]
        return sum(training, Counter[str]())

    @property
    def supervised(self) -> float:
        """The share of all tokens that a model would learn to write."""
        return sum(file.learnt for file in self.files) / max(1, self._tokens)

    @property
    def _tokens(self) -> int:
        return sum(file.tokens for file in self.files)

    def lines(self) -> list[str]:
        """For the screen: what to look at first, what is there, and the sum."""
        lines = [*self.findings.lines(), *(line for file in self.files for line in file.lines())]
        if self.writing:
            shares = ", ".join(f"{share:.1%} {name}" for name, share in self.writing.items())
            lines.append(f"letters: {shares}")
        if told := thoughts.line(self.thoughts, self.thinking):
            lines.append(told)
        return [*lines, *self._token_lines(), self._verdict()]

    def _token_lines(self) -> list[str]:
        if not self.lengths:
            return []
        lines = [
            f"tokens of a conversation: {_shown(self.lengths)}; the limit is {self.limit:,}",
            f"learnt: {self.supervised:.1%} of all tokens; a turn has {_shown(self.answers)}",
        ]
        if pictures := self._picture_tokens():
            share, tokens = pictures["share"], f"{pictures['median']:,} (median), {pictures['most']:,} (most)"
            lines.append(f"images: {share:.1%} of all tokens; one has {tokens}")
        return lines

    def _picture_tokens(self) -> dict[str, Any]:
        """Of one picture, the median and the most; and the share of all tokens that stand for pictures."""
        if not (pictures := self.pictures):
            return {}
        found = percentiles(pictures)
        share = sum(tokens * count for tokens, count in pictures.items()) / self._tokens
        return {"median": found[50], "most": found[100], "share": share}

    def _verdict(self) -> str:
        errors, warnings = self.findings.errors, self.findings.warnings
        found = f"{_plural(errors, 'mistake')}, {_plural(warnings, 'warning')} in {_plural(self.rows, 'row')}"
        codes = " ".join(self.findings.codes()[:4])
        return f"{found}; `finetune docs {codes}` says more" if codes else found

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        described: dict[str, Any] = {
            "data": self.path,
            "rows": self.rows,
            "errors": self.findings.errors,
            "warnings": self.findings.warnings,
            "findings": self.findings.as_dict(),
            "files": [file.as_dict() for file in self.files],
            "writing": self.writing,
        }
        if self.lengths:
            described |= {"lengths": _named(self.lengths), "answers": _named(self.answers)}
            described |= {"supervised_share": self.supervised, "limit": self.limit}
        if turns := self.thoughts:
            described["thoughts"] = {
                kind: turns[kind] for kind in (thoughts.SOME, thoughts.NONE, thoughts.EMPTY)
            }
        if pictures := self._picture_tokens():
            described["image_tokens"] = pictures
        return described


def _plural(count: int, word: str) -> str:
    return f"{count:,} {word}" + ("s" if count != 1 else "")


def _shown(lengths: Mapping[int, int]) -> str:
    return ", ".join(f"{tokens:,} ({name})" for name, tokens in _named(lengths).items())


def _named(lengths: Mapping[int, int]) -> dict[str, int]:
    return {_percentile(percent): tokens for percent, tokens in lengths.items()}


def _percentile(percent: int) -> str:
    return "longest" if percent == 100 else f"p{percent}"
