"""From what a model wrote back to a message: thoughts, text and tool calls apart."""

from dataclasses import replace

from finetune.chat.controls import Controls
from finetune.chat.habits import Habits
from finetune.chat.messages import Message, ToolCall


def read_turn(text: str, stopped_by: str | None, habits: Habits, controls: Controls) -> Message:
    """The message in `text` (marked, stop token off). `stopped_by`: that token, where it tells calls apart."""
    reasoning, rest = without_thoughts(text, habits)
    read = habits.read_calls(rest) if habits.read_calls and stopped_by in (None, habits.call_end) else None
    content, calls = read if read else (rest, ())
    content = content.removeprefix(habits.lead)
    content = _without_markers(content, controls) if calls else content.removesuffix(habits.trail)
    calls = tuple(_revealed(call, controls) for call in calls)
    reasoning = controls.reveal(reasoning) if reasoning else None
    return Message("assistant", controls.reveal(content), calls, reasoning)


def without_thoughts(text: str, habits: Habits) -> tuple[str | None, str]:
    """Thoughts, and what is said behind them."""
    reasoning, rest = _split_thoughts(text, habits)
    if habits.frames_answers:
        rest = rest.lstrip()
    return reasoning, rest.removeprefix(habits.lead) if habits.opens_thoughts else rest


def _split_thoughts(text: str, habits: Habits) -> tuple[str | None, str]:
    """Thoughts are opened by the prompt or by the turn itself."""
    opening, closing = habits.marks.tags
    head, found, tail = text.partition(closing)
    opened = head.lstrip().startswith(opening)
    if not habits.thinks or not found or not (opened or habits.opens_thoughts):
        return None, text
    if not habits.lead:
        tail = tail.removeprefix(habits.marks.closing.partition(closing)[2])
    return head.lstrip().removeprefix(opening).strip("\n"), tail


def _without_markers(content: str, controls: Controls) -> str:
    """Text before a call, without the white space and control tokens that lead over to it."""
    content = content.rstrip()
    while marker := controls.last(content):
        content = content.removesuffix(marker).rstrip()
    return content


def _revealed(call: ToolCall, controls: Controls) -> ToolCall:
    return replace(call, name=controls.reveal(call.name), arguments=controls.reveal_data(call.arguments))
