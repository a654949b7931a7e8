"""Conversation -> examples, and what became of every record.

Nothing is lost without a word: each record of a file has exactly one fate, and the ledger that counts the
fates must add up to the rows that were read.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from finetune.chat.messages import Conversation
from finetune.chat.template import ChatTemplate, Rendered
from finetune.data.formats import PlainText
from finetune.errors import DataError

TrainOn = Literal["all", "last"]
Overflow = Literal["drop", "truncate-left", "error"]
Fate = Literal["trained", "truncated", "too_long", "no_answer", "malformed"]
FATES: tuple[Fate, ...] = get_args(Fate)


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One sequence to train on.

    input_ids: (T,) int32. loss_mask: (T,) bool, True: the model must learn to write this token. False at 0.
    """

    input_ids: NDArray[np.int32]
    loss_mask: NDArray[np.bool_]


Encoded = tuple[tuple[Example, ...], Fate]


def encode(
    conversation: Conversation | PlainText,
    template: ChatTemplate,
    *,
    max_length: int,
    train_on: TrainOn = "all",
    overflow: Overflow = "drop",
) -> Encoded:
    """The examples of a conversation, at most `max_length` tokens each, and its fate.

    Usually one example; one per trained turn where the template rewrites history. Under `error` a conversation
    that is too long has the same fate as under `drop`: the caller, who knows its line, refuses it.
    Raises TemplateError if the template cannot spell it, DataError if it has what we do not train on.
    """
    if isinstance(conversation, PlainText):
        return _document(conversation.text, template, max_length)
    if any(message.images for message in conversation.messages):
        raise DataError("images are not trained yet; leave the record out")
    if not any(message.role == "assistant" and message.train for message in conversation.messages):
        return (), "no_answer"
    rendered = _to_learn(template.render(conversation, train_on=train_on))
    if not rendered:
        return (), "no_answer"
    if max(len(one.input_ids) for one in rendered) <= max_length:
        return tuple(_example(one.input_ids, one.loss_mask) for one in rendered), "trained"
    if overflow != "truncate-left":
        return (), "too_long"
    tails = _tails(conversation, template, max_length, train_on, len(rendered))
    return tuple(_example(one.input_ids, one.loss_mask) for one in tails), "truncated" if tails else "too_long"


def trained_turns(example: Example) -> int:
    """How many turns of `example` are learnt: a run of True in the mask is one turn."""
    rises = example.loss_mask[1:] & ~example.loss_mask[:-1]
    return int(rises.sum())


def _to_learn(rendered: Sequence[Rendered]) -> list[Rendered]:
    return [one for one in rendered if True in one.loss_mask]


def _example(input_ids: Sequence[int], loss_mask: Sequence[bool]) -> Example:
    mask = np.array(loss_mask, dtype=np.bool_)
    mask[0] = False  # nothing stands before the first token to write it from
    return Example(np.array(input_ids, dtype=np.int32), mask)


def _tails(
    conversation: Conversation, template: ChatTemplate, max_length: int, train_on: TrainOn, examples: int
) -> list[Rendered]:
    """The ends of the conversation that fit: one for all, or one for each turn where each is an example."""
    if examples == 1:
        tail = _tail(conversation, template, max_length, train_on)
        return [tail] if tail else []
    turns = [turn for turn in conversation.assistant_turns() if conversation.messages[turn].train]
    ends = (conversation.before(turn + 1) for turn in turns)
    found = (_tail(through, template, max_length, "last") for through in ends)
    return [tail for tail in found if tail]


def _tail(
    conversation: Conversation, template: ChatTemplate, max_length: int, train_on: TrainOn
) -> Rendered | None:
    """The longest end of the conversation that fits, from a user's turn on; system message and tools stay."""
    messages = conversation.messages
    body = next((i for i, message in enumerate(messages) if message.role != "system"), len(messages))
    starts = [body] + [i for i, message in enumerate(messages) if message.role == "user" and i > body]

    def rendered_from(start: int) -> Rendered:
        kept = replace(conversation, messages=messages[:body] + messages[start:])
        return template.render(kept, train_on=train_on)[-1]

    first = bisect_left(starts, True, key=lambda start: len(rendered_from(start).input_ids) <= max_length)
    if first == len(starts):
        return None
    tail = rendered_from(starts[first])
    return tail if True in tail.loss_mask else None


def _document(text: str, template: ChatTemplate, max_length: int) -> Encoded:
    """All of a document, in pieces of at most `max_length`; each begins with the last token of the last."""
    start, written = _document_ids(template.tokenizer, text)
    ids, mask = start + written, [False] * len(start) + [True] * len(written)
    cuts = [slice(first, first + max_length) for first in range(0, len(ids) - 1, max_length - 1)]
    examples = tuple(_example(ids[cut], mask[cut]) for cut in cuts)
    return (examples, "trained") if examples else ((), "no_answer")


def _document_ids(tokenizer: PreTrainedTokenizerFast, text: str) -> tuple[list[int], list[int]]:
    """What the tokenizer puts before a text, and the document with its end; control tokens in it stay text."""
    end = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    backend = tokenizer.backend_tokenizer
    start = [token for token in backend.encode("").ids if token not in end]
    backend.encode_special_tokens = True  # that is: as the text they are, not as the tokens
    try:
        return start, list(backend.encode(text, add_special_tokens=False).ids) + end
    finally:
        backend.encode_special_tokens = False


@dataclass(slots=True)
class Ledger:
    """What became of a file's rows: each has one fate, or was not drawn (`limit`, `weight` of a mixture)."""

    rows: int = 0
    fates: dict[str, int] = field(default_factory=lambda: dict[str, int].fromkeys(FATES, 0))
    not_drawn: int = 0
    repeated: int = 0
    turns_left_out: int = 0

    def count(self, fate: Fate, by: int = 1) -> None:
        self.fates[fate] += by

    def check(self) -> None:
        """Raises DataError if the fates do not add up to the rows."""
        accounted = sum(self.fates.values()) + self.not_drawn
        if accounted != self.rows:
            raise DataError(
                f"the ledger accounts for {accounted} of {self.rows} rows; this is a defect of ours"
            )

    def plus(self, other: "Ledger") -> "Ledger":
        """Both together."""
        fates = {fate: count + other.fates[fate] for fate, count in self.fates.items()}
        return Ledger(
            self.rows + other.rows,
            fates,
            self.not_drawn + other.not_drawn,
            self.repeated + other.repeated,
            self.turns_left_out + other.turns_left_out,
        )

    def as_dict(self) -> dict[str, Any]:
        """For run.json."""
        extra = {"not_drawn": self.not_drawn, "repeated": self.repeated, "turns_left_out": self.turns_left_out}
        return {"rows": self.rows, **self.fates, **extra}

    def lines(self) -> list[str]:
        """For the screen: the sum, then whatever else a person should know."""
        counts = [
            f"{self.fates[fate]:,} {_WORDS[fate]}" for fate in FATES if self.fates[fate] or fate == "trained"
        ]
        if self.not_drawn:
            counts.append(f"{self.not_drawn:,} left out by limit or weight")
        lines = [f"{self.rows:,} rows: {', '.join(counts)}"]
        if self.repeated:
            lines.append(f"{self.repeated:,} conversations more, repeated by weight")
        if self.turns_left_out:
            lines.append(
                f"{self.turns_left_out:,} assistant turns are context only (train_on: last, or cut off)"
            )
        return lines


_WORDS: dict[Fate, str] = {
    "trained": "trained",
    "truncated": "truncated",
    "too_long": "dropped: too long",
    "no_answer": "dropped: no answer to learn",
    "malformed": "dropped: malformed",
}
