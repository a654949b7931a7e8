"""What a model writes behind a prompt, found by comparing the prompt with the text that also has the turn.

    prompt   …<|user|>question<|assistant|>
    through  …<|user|>question<|assistant|>answer<|user|>
                                           ^^^^^^ and what ends it

Thoughts make the two differ. A prompt may open them (`<think>`), or end in empty ones (`<think></think>`), and
the text with the turn may have them, have empty ones, or leave them out: they belong to what the model writes,
whatever its template prints of them later.
"""

import re
from dataclasses import dataclass
from typing import Literal

State = Literal["plain", "opened", "closed"]
"""How a prompt leaves thoughts: says nothing of them, has opened them, or has opened and closed them."""


@dataclass(frozen=True, slots=True)
class Marks:
    """What stands before and behind thoughts: `<think>` and `</think>`, each with its white space.

    `found` False: the template has shown none, these are the field's usual ones.
    """

    opening: str = "<think>\n"
    closing: str = "\n</think>\n\n"
    found: bool = False

    @property
    def tags(self) -> tuple[str, str]:
        return self.opening.strip(), self.closing.strip()


NO_MARKS = Marks()


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt taken apart: `header`, and the thoughts that it opens or leaves empty behind it."""

    text: str
    header: str
    state: State

    @classmethod
    def of(cls, text: str, marks: Marks) -> "Prompt":
        for opening, closing in dict.fromkeys((marks.tags, NO_MARKS.tags)):
            if not (opening and closing):
                continue
            one, other = re.escape(opening), re.escape(closing)
            if found := re.search(rf"(?:{one}\s*)?{other}\s*\Z", text):
                return cls(text, text[: found.start()], "closed")
            if found := re.search(rf"{one}\s*\Z", text):
                return cls(text, text[: found.start()], "opened")
        return cls(text, text, "plain")


def continuation(prompt: str, through: str, reasoning: str, marks: Marks) -> str | None:
    """What the model writes after `prompt` so that the conversation reads as in `through`. None: cannot tell.

    Thoughts (`reasoning`) are spelt here where the template prints them in no history, not even the last turn.
    """
    start = Prompt.of(prompt, marks)
    if through.startswith(prompt) and _tells(through[len(prompt) :], reasoning, start, marks):
        return through[len(prompt) :]
    rest = _behind(start, through)
    if rest is None or (start.state == "closed" and reasoning):
        return None
    body = _without_thoughts(rest, reasoning, marks)
    if start.state == "closed":
        return body
    if start.state == "plain":
        return marks.opening + reasoning + marks.closing + body if reasoning and marks.found else body
    return _behind_opened(prompt, rest, body, reasoning, marks)


def _tells(turn: str, reasoning: str, start: Prompt, marks: Marks) -> bool:
    """Does `turn` have its thoughts, or an end of those that the prompt opened? Words may stand anywhere."""
    thought = re.escape(reasoning.strip())
    if not thought and start.state != "opened":
        return True
    return any(re.search(rf"{thought}\s*{re.escape(closing)}", turn) for closing in _closings(marks))


def _behind(start: Prompt, through: str) -> str | None:
    """What follows the prompt's header; its last line breaks may belong to the thoughts."""
    headers = [start.header] if start.state == "plain" else [start.header, start.header.rstrip("\n")]
    if start.state == "opened" and through.startswith(start.text):
        return through[len(start.text) :]
    for header in headers:
        if header and through.startswith(header):
            return through[len(header) :]
    shared = len(agreed(start.header, through))  # white space before the last marker may differ
    header, rest = start.header[shared:].lstrip(), through[shared:].lstrip()
    return rest[len(header) :] if header.strip() and rest.startswith(header) else None


def _without_thoughts(rest: str, reasoning: str, marks: Marks) -> str:
    """`rest` without the thoughts that it begins with, empty ones or `reasoning`."""
    for opening, closing in dict.fromkeys((marks.tags, NO_MARKS.tags)):
        one, other = re.escape(opening), re.escape(closing)
        if found := re.match(rf"\s*(?:{one}\s*)?(?:{re.escape(reasoning.strip())}\s*)?{other}", rest):
            return rest[found.end() :].removeprefix(marks.closing.partition(closing)[2])
    return rest


def empty_thoughts(turn: str, marks: Marks) -> int:
    """Characters of the empty thoughts that a turn begins with, white space around them included; 0: none."""
    return len(turn) - len(_without_thoughts(turn, "", marks))


def _behind_opened(prompt: str, rest: str, body: str, reasoning: str, marks: Marks) -> str:
    """The thoughts and their end behind a prompt that has opened them, then the answer."""
    if rest.lstrip("\n").startswith(_closings(marks)):
        return reasoning + rest.lstrip("\n")
    if marks.found:
        space = marks.opening.removeprefix(marks.tags[0])
        missing = "" if prompt.endswith(space) else space
        return missing + reasoning + marks.closing + body
    if body is rest:
        body = rest.lstrip("\n") if rest.startswith("\n") and not prompt.endswith("\n") else rest
    return f"{reasoning}\n</think>\n\n{body}" if prompt.endswith("\n") else f"\n{reasoning}\n</think>\n{body}"


def _closings(marks: Marks) -> tuple[str, ...]:
    return tuple({marks.tags[1], NO_MARKS.tags[1]} - {""})


def learn_marks(
    prompt: str, plain: str, thinking: str, thought: str, said: str, *, answers: bool = True
) -> Marks | None:
    """The marks around `thought` in `thinking`; `plain`: the same without it; `said` is what follows in both.
    `answers`: that is text, and no part of a call.

    None where the thought is not printed, or not before `said`.
    """
    before, printed, behind = thinking.partition(thought)
    closing, follows, _ = behind.partition(said)
    if not (printed and follows):
        return None
    closing = closing.removesuffix(_lead(prompt, plain.partition(said)[0], closing))
    if not answers and (first := _TAG.search(closing)):  # a call has a lead of its own
        closing = closing[: first.end()]
    header = agreed(plain, thinking)
    if not plain[len(header) :].startswith(said):  # `plain` has empty thoughts
        header = prompt
    opening = before.removeprefix(header) if before.startswith(header) else ""
    if not opening.strip() and (found := _LAST_TAG.search(before)):
        opening = found[0]
    if not opening.strip() and prompt.rstrip().endswith(closing.strip()):
        found = _LAST_TAG_AND_WORD.search(prompt.rstrip().removesuffix(closing.strip()))
        opening = found[0] if found else ""
    return Marks(opening, closing, found=True) if opening.strip() and closing.strip() else None


def _lead(prompt: str, plain: str, closing: str) -> str:
    """What stands before an answer without thoughts, and is no part of their `closing`."""
    shared = agreed(plain[::-1], closing[::-1])[::-1]
    leads = [shared[tag.start() :] for tag in _TAG.finditer(shared)]
    if plain.startswith(prompt):
        leads = [plain.removeprefix(prompt), *leads]
    # `plain` may have empty thoughts: their end is no part of what leads over to the answer.
    return next((lead for lead in leads if closing.removesuffix(lead).strip()), "")


_TAG = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]")
_LAST_TAG_AND_WORD = re.compile(r"<[^<>\s]+>\w+\s*\Z")
_LAST_TAG = re.compile(r"(?:<[^<>\s]+>|\[[^\[\]\s]+\])\s*\Z")


def agreed(one: str, other: str) -> str:
    """What both texts start with."""
    length = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
    return min(one, other, key=len) if length is None else one[:length]
