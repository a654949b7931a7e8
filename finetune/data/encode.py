"""Conversation -> examples, and its fate.

conversations --write (Jinja)--> texts --finish (tokenizer, images looked at)--> examples
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from finetune.chat.messages import Conversation
from finetune.chat.script import Transcript
from finetune.chat.sight import Sight
from finetune.chat.template import ChatTemplate, Rendered
from finetune.data.images.picture import Picture
from finetune.data.ledger import Fate
from finetune.data.reading.fields import WrongRecordError
from finetune.data.reading.formats import PlainText
from finetune.data.reading.pictures import picture_of
from finetune.errors import TemplateError

TrainOn = Literal["all", "last", "everything"]
Overflow = Literal["drop", "truncate-left", "error"]
WEIGHT = "weight"
"""The column that says how much each learnt token counts in the loss, float32."""


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One sequence to train on.

    input_ids: (T,) int32. loss_mask: (T,) bool, True: the model must learn to write this token. False at 0.
    pictures: in order; each has as many image tokens in `input_ids` as `Sight.tokens` says.
    columns: what else the tokens carry, (T,) each, by name; `weight` only where it is not 1 for all of them.
    """

    input_ids: NDArray[np.int32]
    loss_mask: NDArray[np.bool_]
    pictures: tuple[Picture, ...] = ()
    columns: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a model is asked with: ids, and the pictures that their image tokens stand for, in order."""

    ids: list[int]
    pictures: tuple[Picture, ...] = ()

    def __len__(self) -> int:
        """In tokens."""
        return len(self.ids)


Encoded = tuple[tuple[Example, ...], Fate]
Source = Conversation | PlainText
Refusal = TemplateError | WrongRecordError
REFUSALS = (TemplateError, WrongRecordError)
Outcome = Encoded | Refusal
Texts = tuple[Transcript, ...] | TemplateError


def encode(
    conversation: Source,
    template: ChatTemplate,
    *,
    max_length: int,
    train_on: TrainOn = "all",
    overflow: Overflow = "drop",
) -> Encoded:
    """The examples of a conversation, at most `max_length` tokens each, and its fate.

    Usually one example; one per trained turn where the template rewrites history. Under `error` a conversation
    that is too long has the same fate as under `drop`: the caller, who knows its line, refuses it.
    Raises TemplateError if it cannot be spelt exactly, WrongRecordError for an image that cannot be used.
    """
    (outcome,) = Encoder(template, max_length, train_on, overflow).encode([conversation])
    if isinstance(outcome, REFUSALS):
        raise outcome
    return outcome


def prompt_of(template: ChatTemplate, conversation: Conversation) -> Prompt:
    """The prompt for the turn after `conversation`. Raises as `encode` does."""
    return prompt_from(template.rendered_prompt(conversation), template.sight)


def prompt_from(rendered: Rendered, sight: Sight | None) -> Prompt:
    """All of a text as a prompt. Raises WrongRecordError for an image that cannot be used."""
    whole = _whole(rendered, sight)
    return Prompt(whole.input_ids.tolist(), whole.pictures)


@dataclass(frozen=True, slots=True)
class Encoder:
    """What `encode` does, for many conversations. One that cannot be encoded comes out as the reason."""

    template: ChatTemplate
    max_length: int
    train_on: TrainOn = "all"
    overflow: Overflow = "drop"

    def encode(self, sources: Sequence[Source]) -> list[Outcome]:
        """Each conversation's outcome, by one call of the tokenizer as a rule."""
        return self.finish(sources, self.write(sources))

    def write(self, sources: Sequence[Source]) -> list[Texts]:
        """The texts to be tokenized; none of a document, or where there is no answer to learn."""
        return [self._write(source) for source in sources]

    def _write(self, source: Source) -> Texts:
        if isinstance(source, PlainText):
            return ()
        try:
            return self.template.write(source, train_on=self.train_on)
        except TemplateError as error:
            return error

    def finish(self, sources: Sequence[Source], written: Sequence[Texts]) -> list[Outcome]:
        """What `encode` gives, from the texts that `write` made."""
        texts = [() if isinstance(one, TemplateError) else one for one in written]
        try:
            rendered = iter(self.template.encode([text for one in texts for text in one]))
        except TemplateError as error:
            if len(sources) == 1:
                return [error]
            # One of them cannot be tokenized as what it is: it must not cost the others.
            alone = [self.finish([source], [one]) for source, one in zip(sources, written, strict=True)]
            return [outcome for (outcome,) in alone]
        return [
            one if isinstance(one, TemplateError) else self._outcome(source, list(islice(rendered, len(one))))
            for source, one in zip(sources, written, strict=True)
        ]

    def _outcome(self, source: Source, texts: Sequence[Rendered]) -> Outcome:
        if isinstance(source, PlainText):
            return _document(source.text, self.template, self.max_length)
        try:
            return self._examples(source, [one for one in texts if True in one.loss_mask])
        except (
            REFUSALS
        ) as error:  # an image, or a template that wants no conversation that begins in the middle
            return error

    def _examples(self, source: Conversation, rendered: Sequence[Rendered]) -> Encoded:
        if not rendered:
            return (), "no_answer"
        examples = tuple(_weighted(source, rendered, self.template.sight, self.train_on))
        if max(len(one.input_ids) for one in examples) <= self.max_length:
            return examples, "trained"
        if self.overflow != "truncate-left":
            return (), "too_long"
        tails = tuple(_tails(source, self.template, self.max_length, self.train_on, len(rendered)))
        return tails, "truncated" if tails else "too_long"


def turn_lengths(example: Example) -> list[int]:
    """Tokens of each turn of `example` that is learnt: a run of True in the mask is one turn."""
    edges = np.flatnonzero(np.diff(example.loss_mask, prepend=False, append=False))
    return (edges[1::2] - edges[::2]).tolist()  # type: ignore[no-any-return]


def _example(input_ids: Sequence[int], loss_mask: Sequence[bool]) -> Example:
    mask = np.array(loss_mask, dtype=np.bool_)
    mask[0] = False  # nothing stands before the first token to write it from
    return Example(np.array(input_ids, dtype=np.int32), mask)


def _whole(
    rendered: Rendered, sight: Sight | None, columns: Mapping[str, NDArray[np.float32]] | None = None
) -> Example:
    """The example with as many image tokens as each image takes. Raises WrongRecordError for a bad one.

    An image token is never learnt: nothing is to write it.
    """
    example = replace(_example(rendered.input_ids, rendered.loss_mask), columns=columns or {})
    if sight is None or not rendered.images:
        return example
    pictures = tuple(picture_of(image, sight) for image in rendered.images)
    times = np.ones(len(example.input_ids), dtype=np.int64)
    times[example.input_ids == sight.token] = [sight.tokens(one.width, one.height) for one in pictures]
    return Example(
        np.repeat(example.input_ids, times),
        np.repeat(example.loss_mask & (example.input_ids != sight.token), times),
        pictures,
        {name: np.repeat(column, times) for name, column in example.columns.items()},
    )


def _weighted(
    conversation: Conversation, rendered: Sequence[Rendered], sight: Sight | None, train_on: TrainOn
) -> Iterator[Example]:
    """An example for each text, its turns with the weights that the conversation gives them."""
    turns = conversation.assistant_turns()
    of_turn = [conversation.messages[i] for i in (turns[-1:] if train_on == "last" else turns)]
    weights = [message.weight for message in of_turn if message.train]
    if all(weight == 1 for weight in weights):
        yield from (_whole(one, sight) for one in rendered)
        return
    left = iter(weights[len(weights) - sum(len(one.turns) for one in rendered) :])
    for one in rendered:
        of_token = np.ones(len(one.input_ids), dtype=np.float32)
        for start, end in one.turns:
            of_token[start:end] = next(left)
        yield _whole(one, sight, {WEIGHT: of_token})


def _tails(
    conversation: Conversation, template: ChatTemplate, max_length: int, train_on: TrainOn, examples: int
) -> list[Example]:
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
) -> Example | None:
    """The longest end of the conversation that fits, from a user's turn on; system message and tools stay.

    Whole turns go, and their images with them: none is ever cut.
    """
    messages = conversation.messages
    body = next((i for i, message in enumerate(messages) if message.role != "system"), len(messages))
    starts = [body] + [i for i, message in enumerate(messages) if message.role == "user" and i > body]

    def rendered_from(start: int) -> Example:
        kept = replace(conversation, messages=messages[:body] + messages[start:])
        last = template.render(kept, train_on=train_on)[-1:]
        return next(_weighted(kept, last, template.sight, train_on))

    first = bisect_left(starts, True, key=lambda start: len(rendered_from(start).input_ids) <= max_length)
    if first == len(starts):
        return None
    tail = rendered_from(starts[first])
    return tail if True in tail.loss_mask else None


def _document(text: str, template: ChatTemplate, max_length: int) -> Encoded:
    """All of a document, in pieces of at most `max_length`; each begins with the last token of the last."""
    start, written = _document_ids(template, text)
    ids, mask = start + written, [False] * len(start) + [True] * len(written)
    cuts = [slice(first, first + max_length) for first in range(0, len(ids) - 1, max_length - 1)]
    examples = tuple(_example(ids[cut], mask[cut]) for cut in cuts)
    return (examples, "trained") if examples else ((), "no_answer")


def _document_ids(template: ChatTemplate, text: str) -> tuple[list[int], list[int]]:
    """What the tokenizer puts before a text, and the document with its end; control tokens in it stay text."""
    tokenizer = template.tokenizer
    end = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    backend = tokenizer.backend_tokenizer
    start = [token for token in backend.encode("").ids if token not in end]
    if any(token in text for token in template.text_tokens):
        return start, template.document_ids(text) + end
    backend.encode_special_tokens = True  # that is: as the text they are, not as the tokens
    try:
        return start, list(backend.encode(text, add_special_tokens=False).ids) + end
    finally:
        backend.encode_special_tokens = False
