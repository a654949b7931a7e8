"""data_config -> examples: read, parsed and encoded once, in flat arrays.

input_ids      ▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁   every token of every example, end to end
offsets        ^    ^        ^  ^     ^   where each example begins, and the end
first_example  ^             ^        ^   which examples each conversation owns (mostly one)
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from finetune.chat.messages import Conversation
from finetune.chat.template import ChatTemplate
from finetune.config.schema import DataConfig, FileShare
from finetune.data.encode import Example, Ledger
from finetune.data.formats import PlainText
from finetune.data.intake import Intake, raise_problems, resolve_file, wanted_format
from finetune.data.mixture import FileAccount, FileLoad, Shelf
from finetune.data.records import Malformed
from finetune.errors import DataError, TrainingError

__all__ = ["Examples", "FileAccount", "Sample", "load_conversations", "load_examples", "resolve_file"]

_SKIP = "correct them, or set data_config.on_bad_record: skip"
_OVERFLOW = "raise max_input_length or max_output_length, or set data_config.overflow: drop or truncate-left"


@dataclass(frozen=True, slots=True)
class Sample:
    """A conversation to evaluate on, and where it stands: file:line."""

    conversation: Conversation
    origin: str


@dataclass(frozen=True, eq=False)
class Examples:
    """All examples of a data set; example i is tokens offsets[i]:offsets[i + 1].

    input_ids: (tokens,) int32. loss_mask: (tokens,) bool. offsets: (examples + 1,) int64.
    first_example: (conversations + 1,) int64. lines, sources: (conversations,) where each comes from.
    lengths, supervised: (examples,) int32, tokens and those of them that are learnt.
    rejected: the records that were skipped, with their reasons. files: the account of each file.
    """

    input_ids: NDArray[np.int32]
    loss_mask: NDArray[np.bool_]
    offsets: NDArray[np.int64]
    first_example: NDArray[np.int64]
    lines: NDArray[np.int64]
    sources: NDArray[np.int32]
    source_names: tuple[str, ...]
    files: tuple[FileAccount, ...]
    rejected: tuple[Malformed, ...]
    lengths: NDArray[np.int32] = field(init=False)
    supervised: NDArray[np.int32] = field(init=False)

    def __post_init__(self) -> None:
        learnt = np.add.reduceat(self.loss_mask, self.offsets[:-1], dtype=np.int32)
        object.__setattr__(self, "lengths", np.diff(self.offsets).astype(np.int32))
        object.__setattr__(self, "supervised", learnt)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(index)
        tokens = slice(self.offsets[index], self.offsets[index + 1])
        return Example(self.input_ids[tokens], self.loss_mask[tokens])

    def __iter__(self) -> Iterator[Example]:
        return (self[index] for index in range(len(self)))

    @property
    def conversations(self) -> int:
        """How many conversations there are; a conversation may have several examples."""
        return len(self.first_example) - 1

    def examples_of(self, conversation: int) -> range:
        """The examples of one conversation."""
        return range(int(self.first_example[conversation]), int(self.first_example[conversation + 1]))

    def origin(self, conversation: int) -> str:
        """Where a conversation stands: file:line."""
        return f"{self.source_names[self.sources[conversation]]}:{self.lines[conversation]}"

    @property
    def ledger(self) -> Ledger:
        """What became of the rows of all files together."""
        total = Ledger()
        for account in self.files:
            total = total.plus(account.ledger)
        return total

    @property
    def sha256(self) -> str:
        """The content of the files: of one file its own SHA-256, of several theirs joined by +."""
        return "+".join(account.sha256 for account in self.files)

    @property
    def format(self) -> str:
        return ", ".join(dict.fromkeys(account.format for account in self.files))

    @property
    def why(self) -> str:
        return "; ".join(dict.fromkeys(account.why for account in self.files))


def load_examples(
    data_config: DataConfig,
    files: str | Sequence[FileShare],
    data_dir: Path,
    template: ChatTemplate,
    *,
    max_length: int,
) -> Examples:
    """Encode the conversations of `files` (a file, or a mixture), at most `max_length` tokens each.

    Raises DataError with the first mistakes of all files (on_bad_record: error, overflow: error), and
    TrainingError if nothing is left to learn.
    """
    shares = [FileShare(file=files)] if isinstance(files, str) else list(files)
    shelf = Shelf()
    loads = [FileLoad(share, resolve_file(share.file, data_dir), data_config) for share in shares]
    for load in loads:
        load.encode_into(shelf, template, max_length)
    _raise_mistakes(loads, data_config)
    accounts = tuple(load.account() for load in loads)
    if len(shelf.lines) == 0:
        raise TrainingError(_nothing_to_learn(accounts, max_length))
    rejected = tuple(problem for load in loads for problem in load.intake.problems)
    return _examples(shelf, accounts, rejected)


def _raise_mistakes(loads: Sequence[FileLoad], data_config: DataConfig) -> None:
    rows = sum(load.intake.rows for load in loads)
    if data_config.on_bad_record == "error":
        raise_problems([problem for load in loads for problem in load.intake.problems], rows, _SKIP)
    if data_config.overflow == "error":
        raise_problems([problem for load in loads for problem in load.too_long], rows, _OVERFLOW)


def _nothing_to_learn(accounts: Sequence[FileAccount], max_length: int) -> str:
    lines = [f"{account.file}: nothing to learn: {account.ledger.lines()[0]}" for account in accounts]
    if any(account.ledger.fates["too_long"] for account in accounts):
        lines.append(f"the limit is {max_length} tokens; {_OVERFLOW.replace('drop or ', '')}")
    return "\n".join(lines)


def _examples(shelf: Shelf, accounts: tuple[FileAccount, ...], rejected: tuple[Malformed, ...]) -> Examples:
    return Examples(
        input_ids=np.frombuffer(shelf.ids, dtype=np.int32),
        loss_mask=np.frombuffer(shelf.mask, dtype=np.bool_),
        offsets=np.frombuffer(shelf.ends, dtype=np.int64),
        first_example=np.frombuffer(shelf.first_example, dtype=np.int64),
        lines=np.frombuffer(shelf.lines, dtype=np.int64),
        sources=np.frombuffer(shelf.sources, dtype=np.int32),
        source_names=tuple(shelf.names),
        files=accounts,
        rejected=rejected,
    )


def load_conversations(data_config: DataConfig, file: str, data_dir: Path) -> list[Sample]:
    """The conversations of one file, to evaluate and generate on. Raises DataError as `load_examples` does."""
    intake = Intake(resolve_file(file, data_dir), wanted_format(data_config))
    samples: list[Sample] = []
    for record, conversation in intake.conversations():
        if isinstance(conversation, PlainText):
            reason = "plain text has no turn to answer"
            intake.refuse(Malformed(record.source, record.line, 0, reason, "E302"))
        else:
            samples.append(Sample(conversation, f"{record.source}:{record.line}"))
    if data_config.on_bad_record == "error":
        raise_problems(intake.problems, intake.rows, _SKIP)
    if not samples:
        raise DataError(f"{intake.path}: no conversation in it; {intake.rows} rows were read")
    return samples
