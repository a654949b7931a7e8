"""Conversations that the assistant begins: a template may not print such a turn, or have no prompt for it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from finetune.chat.messages import Conversation, Message
from finetune.errors import TemplateError

AssistantFirst = Literal["train", "context", "drop"]


def leading_turns(conversation: Conversation) -> list[int]:
    """The positions of the assistant's turns before the first one of a user."""
    roles = [message.role for message in conversation.messages]
    end = roles.index("user") if "user" in roles else len(roles)
    return [i for i in range(end) if roles[i] == "assistant"]


def settle_leading(conversation: Conversation, wish: AssistantFirst) -> Conversation | None:
    """The conversation with the turns before the first user's as `wish` wants them; None: nothing is left."""
    leading = leading_turns(conversation)
    if wish == "train" or not leading:
        return conversation
    if wish == "context":
        return replace(conversation, messages=_as_context(conversation, leading))
    first, last = leading[0], _first_user(conversation)
    kept = conversation.messages[:first] + conversation.messages[last:]
    return replace(conversation, messages=kept) if last < len(conversation.messages) else None


def _first_user(conversation: Conversation) -> int:
    roles = [message.role for message in conversation.messages]
    return roles.index("user") if "user" in roles else len(roles)


def _as_context(conversation: Conversation, leading: list[int]) -> tuple[Message, ...]:
    messages = enumerate(conversation.messages)
    return tuple(replace(message, train=False) if i in leading else message for i, message in messages)


def told_plainly(
    error: TemplateError, conversation: Conversation, write: Callable[[Conversation], object]
) -> TemplateError:
    """The error, or where the first turn is what is wrong, that and what helps; `write` tries it."""
    leading = leading_turns(conversation)
    if not leading:
        return error
    cures: tuple[tuple[AssistantFirst, str], ...] = (
        ("context", 'write "train": false beside it, or set data_config.assistant_first: context'),
        ("drop", "leave it out by data_config.assistant_first: drop"),
    )
    for wish, advice in cures:
        cured = settle_leading(conversation, wish)
        if cured is None or cured == conversation:
            continue
        try:
            write(cured)
        except TemplateError:
            continue
        what = f"message {leading[0] + 1} (assistant) comes before any user's, and the chat template"
        lacks = "has no prompt for it" if wish == "context" else "cannot begin with it"
        return TemplateError(f"{what} {lacks}; {advice}", conversation.messages[leading[0]].at)
    return error
