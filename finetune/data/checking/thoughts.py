"""How many of the turns that are learnt have thoughts, have none, or have empty ones."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from finetune.chat.continuation import empty_thoughts
from finetune.chat.messages import Conversation, Message
from finetune.chat.template import ChatTemplate, TrainOn
from finetune.chat.thoughts import thoughts_of
from finetune.data.encode import Example, turn_lengths

SOME, NONE, EMPTY = "with thoughts", "without thoughts", "with empty thoughts"
_HEAD = 24
"""Tokens of a turn that hold empty thoughts, where it begins with some."""


def in_data(conversation: Conversation, train_on: TrainOn) -> Counter[str]:
    """As the records have them."""
    found = [thoughts_of(message) for message in _learnt(conversation, train_on)]
    return Counter(NONE if thoughts is None else SOME if thoughts else EMPTY for thoughts in found)


def as_learnt(
    conversation: Conversation, examples: Sequence[Example], template: ChatTemplate, train_on: TrainOn
) -> Counter[str]:
    """As a model is taught them: without those that are left out, with empty ones that the template writes."""
    if train_on == "everything":  # turns do not stand apart there
        return in_data(conversation, train_on)
    learnt, empty, marks = sum(len(turn_lengths(example)) for example in examples), 0, template.dialect.marks
    if any(tag in template.source for tag in ("</think>", marks.tags[1])):
        empty = sum(empty_thoughts(head, marks) > 0 for one in examples for head in _heads(one, template))
    drops = template.thinking == "drop" or not template.dialect.thinks
    some = 0 if drops else in_data(conversation, train_on)[SOME]
    return Counter({SOME: some, EMPTY: empty, NONE: learnt - some - empty})


def line(counts: Mapping[str, int], thinking: str) -> str | None:
    """For the screen; None where there are none at all."""
    total = sum(counts.values())
    if not total or counts[NONE] == total:
        return None
    shares = ", ".join(f"{counts[kind] / total:.1%} {kind}" for kind in (SOME, NONE, EMPTY))
    hint = "; data_config.thinking: skip-empty teaches no empty ones but the data's own"
    return f"learnt turns: {shares}{hint if counts[EMPTY] and thinking == 'train' else ''}"


def _learnt(conversation: Conversation, train_on: TrainOn) -> list[Message]:
    turns = conversation.assistant_turns()
    messages = [conversation.messages[i] for i in (turns[-1:] if train_on == "last" else turns)]
    return [message for message in messages if message.train]


def _heads(example: Example, template: ChatTemplate) -> list[str]:
    """The text that each learnt turn begins with."""
    starts = np.flatnonzero(np.diff(example.loss_mask, prepend=False).astype(np.int8) * example.loss_mask)
    return [template.visible(example.input_ids[start : start + _HEAD].tolist()) for start in starts]
