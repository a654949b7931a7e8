"""Thoughts apart from answers, wherever a record or a model puts them.

Data has thoughts in a field of their own, or in the text as a reasoning model wrote it:

    <think>six times seven</think>42        inline
    six times seven</think>42               behind a prompt that has opened the thoughts
    <think>…</think><answer>42</answer>     in the frame of GLM-4.1V
"""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from finetune.chat.habits import ANSWER_FRAME, Habits
from finetune.chat.messages import Conversation, Message
from finetune.errors import TemplateError

Thinking = Literal["train", "drop", "skip-empty"]
"""What becomes of the thoughts in training data; `skip-empty`: as `train`, but for those that no record has."""

_INLINE = re.compile(r"\s*<think>(.*?)</think>\s*(.*)", re.DOTALL)
_BEHIND_OPENED = re.compile(r"((?:(?!</?think>).)*)</think>\s*((?:(?!</?think>).)*)", re.DOTALL)


def settle_thoughts(conversation: Conversation, habits: Habits, thinking: Thinking) -> Conversation:
    """The conversation with its thoughts in the one place where the template looks for them, or without them.

    A template without words for thoughts (`habits.thinks` False) shows inline ones as the text that they are.
    Raises TemplateError where dropping the thoughts leaves nothing of a message.
    """
    if thinking == "drop":
        return _each_answer(conversation, lambda number, message: _dropped(number, apart(message, habits)))
    if habits.thinks:
        return _each_answer(conversation, lambda _, message: apart(message, habits))
    return conversation


def thoughtless(conversation: Conversation) -> frozenset[int]:
    """The assistant's messages that have no thoughts, not even empty ones: a template may write some itself."""
    return frozenset(
        turn for turn in conversation.assistant_turns() if thoughts_of(conversation.messages[turn]) is None
    )


def thoughts_of(message: Message) -> str | None:
    """A message's thoughts, in their field or inline; empty ones are a text of no length, none are None."""
    if message.reasoning:
        return message.reasoning.strip()
    found = _INLINE.fullmatch(message.content)
    return None if found is None else found[1].strip()


def apart(message: Message, habits: Habits) -> Message:
    """The assistant's message with inline thoughts moved to `reasoning`, where no others are already."""
    reasoning, content = message.reasoning, message.content
    if reasoning is None and (found := _inline(message, habits)):
        reasoning, content = found[1].strip(), found[2]
    if habits.frames_answers:
        content = unframed(content)
    return replace(message, content=content, reasoning=reasoning or None)


def _inline(message: Message, habits: Habits) -> re.Match[str] | None:
    """Thoughts (1) and answer (2). A lone `</think>` counts only behind a prompt that has opened them."""
    if found := _INLINE.fullmatch(message.content):
        return found
    found = _BEHIND_OPENED.fullmatch(message.content) if habits.opens_thoughts else None
    return found if found and (found[2] or message.tool_calls) else None


def unframed(content: str) -> str:
    """What stands between `<answer>` and `</answer>`, the first open or closed, where content is in them."""
    opening, closing = ANSWER_FRAME
    body = content.strip()
    return body.removeprefix(opening).removesuffix(closing) if body.startswith(opening) else content


def _each_answer(conversation: Conversation, change: Callable[[int, Message], Message]) -> Conversation:
    messages = tuple(
        change(number, message) if message.role == "assistant" else message
        for number, message in enumerate(conversation.messages, 1)
    )
    return Conversation(messages, conversation.tools)


def _dropped(number: int, message: Message) -> Message:
    if message.reasoning and not (message.content.strip() or message.tool_calls):
        raise TemplateError(
            f"message {number}: nothing is left of it without its thoughts; set data_config.thinking: train, "
            "or leave the record out",
            message.at,
        )
    return replace(message, reasoning=None)
