"""The files that a data set is mixed from: each read, encoded and counted, and put on one shelf."""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from finetune.chat.messages import Conversation
from finetune.chat.template import ChatTemplate
from finetune.config.schema import DataConfig, FileShare
from finetune.data.album import AlbumMaker
from finetune.data.encode import REFUSALS, WEIGHT, Encoder, Example, Outcome, Refusal, Source, turn_lengths
from finetune.data.ledger import Fate, FileAccount, Ledger
from finetune.data.plan import permutation
from finetune.data.reading.intake import Intake
from finetune.data.reading.records import Malformed, Record
from finetune.data.spelt import Spelt
from finetune.data.stream import encoded
from finetune.errors import TemplateError


@dataclass(slots=True)
class Shelf:
    """Encoded conversations, appended one by one."""

    ids: "array[int]" = field(default_factory=lambda: array("i"))
    mask: bytearray = field(default_factory=bytearray)
    ends: "array[int]" = field(default_factory=lambda: array("q", [0]))
    first_example: "array[int]" = field(default_factory=lambda: array("q", [0]))
    lines: "array[int]" = field(default_factory=lambda: array("q"))
    sources: "array[int]" = field(default_factory=lambda: array("i"))
    names: dict[str, int] = field(default_factory=dict)
    album: AlbumMaker = field(default_factory=AlbumMaker)
    weights: "array[float]" = field(default_factory=lambda: array("f"))
    """Of each token, from the first example on that has any; those before it are 1."""

    def add(self, examples: Sequence[Example], source: str, line: int) -> None:
        for example in examples:
            self._add_weights(example)
            self.ids.frombytes(example.input_ids.tobytes())
            self.mask += example.loss_mask.tobytes()
            self.ends.append(len(self.ids))
            self.album.add(example.pictures)
        self.first_example.append(len(self.ends) - 1)
        self.lines.append(line)
        self.sources.append(self.names.setdefault(source, len(self.names)))

    def _add_weights(self, example: Example) -> None:
        """What this example's tokens count; nothing is kept as long as all of them count 1."""
        column = example.columns.get(WEIGHT)
        if column is None and not self.weights:
            return
        if not self.weights:
            self.weights.frombytes(np.ones(len(self.ids), dtype=np.float32).tobytes())
        ones = np.ones(len(example.input_ids), dtype=np.float32)
        self.weights.frombytes((ones if column is None else column).tobytes())

    def columns(self) -> dict[str, NDArray[np.float32]]:
        """What the tokens carry besides, by name."""
        return {WEIGHT: np.frombuffer(self.weights, dtype=np.float32)} if self.weights else {}


class FileLoad:
    """One file of a mixture on its way to the shelf."""

    def __init__(self, share: FileShare, intake: Intake, data_config: DataConfig) -> None:
        self.share = share
        self.data_config = data_config
        self.intake = intake
        self.too_long: list[Malformed] = []
        self.unspelt = 0  # good records that the template cannot spell
        self.remarks: list[Malformed] = []
        self.ledger = Ledger()

    def encode_into(self, shelf: Shelf, template: ChatTemplate, max_length: int) -> None:
        """Encode, count, and put on the shelf as often as the file's weight says."""
        encoder = Encoder(template, max_length, self.data_config.train_on, self.data_config.overflow)
        kept: list[_Kept] = []
        spelt = Spelt(template)
        processes = self.data_config.num_proc
        for record, conversation, outcome in encoded(encoder, self._worth_encoding(), processes=processes):
            spelt.look_at(record, conversation)
            made = self._count(record, conversation, outcome, max_length)
            if made and self.share.weight == 1:
                shelf.add(*made[:3])
            elif made:
                kept.append(made)
        self._draw(kept, shelf)
        self.remarks = [*self.intake.remarks(), *spelt.findings()]
        self.intake.problems.sort(key=lambda problem: (problem.source, problem.line, problem.column))
        self.ledger.rows = self.intake.rows
        self.ledger.count("malformed", len(self.intake.problems))
        self.ledger.not_drawn += self.intake.not_drawn

    def _worth_encoding(self) -> Iterator[tuple[Record, Source]]:
        """The good records; once a mistake has refused the run, reading goes on for the others alone."""
        for record, conversation in self.intake.conversations(self.share.limit):
            if self.data_config.on_bad_record == "skip" or len(self.intake.problems) == self.unspelt:
                yield record, conversation

    def _count(
        self,
        record: Record,
        conversation: Source,
        outcome: Outcome,
        max_length: int,
    ) -> "_Kept | None":
        """The record's examples, counted; None if it has none, or the template cannot spell it."""
        if isinstance(outcome, REFUSALS):
            self.intake.refuse(refused(record, outcome))
            self.unspelt += 1
            return None
        examples, fate = outcome
        self.ledger.count(fate)
        if fate == "too_long":
            reason = f"longer than {max_length} tokens (max_input_length + max_output_length)"
            self.too_long.append(record.malformed("E401", reason))
        if isinstance(conversation, Conversation) and (
            self.data_config.train_on == "last" or (fate == "truncated" and self.data_config.train_on == "all")
        ):
            self.ledger.turns_left_out += _turns_left_out(conversation, examples)
        return (examples, record.source, record.line, fate) if examples else None

    def _draw(self, kept: Sequence["_Kept"], shelf: Shelf) -> None:
        drawn = draw(len(kept), self.share.weight)
        for index in drawn:
            shelf.add(*kept[index][:3])
        for index in set(range(len(kept))).difference(drawn):
            self.ledger.count(kept[index][3], -1)
            self.ledger.not_drawn += 1
        self.ledger.repeated = len(drawn) - len(set(drawn))

    def account(self, sha256: str) -> FileAccount:
        """What became of the file, whose content has this hash. Raises DataError if the fates do not add up."""
        self.ledger.check()
        found, why = self.intake.format()
        remarks = tuple(str(finding) for finding in self.remarks)
        return FileAccount(str(self.intake.path), sha256, found, why, self.ledger, remarks)


def refused(record: Record, why: Refusal) -> Malformed:
    """What is wrong with a good record that cannot become an example."""
    if isinstance(why, TemplateError):
        return record.malformed("E301", str(why), why.at)
    return record.malformed(why.code, why.reason, why.path)


_Kept = tuple[tuple[Example, ...], str, int, Fate]
"""A conversation's examples, source, line and fate."""


def _turns_left_out(conversation: Conversation, examples: Sequence[Example]) -> int:
    """How many turns to learn are context in `examples`, or cut off; 0 where there is no example."""
    turns = sum(message.role == "assistant" and message.train for message in conversation.messages)
    return turns - sum(len(turn_lengths(one)) for one in examples) if examples else 0


def draw(count: int, weight: float) -> list[int]:
    """Which of `count` conversations a mixture takes: each floor(weight) times, a fixed sample once more."""
    whole, share = divmod(weight, 1)
    once_more = permutation(count, seed=0, epoch=0)[: round(count * share)]
    return sorted(list(range(count)) * int(whole) + once_more.tolist())
