"""A conversation as text: where each turn of the assistant starts and ends in it, in characters.

A turn starts where the generation prompt ends, and ends with its stop token.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from finetune.chat.continuation import Marks, Prompt, agreed, continuation, empty_thoughts
from finetune.chat.controls import Controls
from finetune.chat.dialects import spell
from finetune.chat.habits import Habits
from finetune.chat.jinja import JinjaTemplate
from finetune.chat.losses import first_unprinted, unwritten
from finetune.chat.messages import Conversation, Image, Message
from finetune.errors import TemplateError


@dataclass(frozen=True, slots=True)
class Turn:
    """Where an assistant message stands in rendered text: characters, half-open, its stop token included."""

    message: int
    start: int
    end: int
    stop: str


@dataclass(frozen=True, slots=True)
class Transcript:
    """One rendered text and the turns that stand in it as the model writes them; `trained`: their messages.

    images: those for which the text has a token each, in order. everything: what stands between the turns is
    learnt, too.
    """

    text: str
    turns: tuple[Turn, ...]
    trained: frozenset[int] = frozenset()
    images: tuple[Image, ...] = ()
    everything: bool = False


class Script:
    """One conversation in a template's dicts; all its text is marked (see controls.py).

    without_empty: the messages whose turn begins behind the empty thoughts that the template gives them.
    Raises TemplateError at birth where the template would leave a part of it out.
    """

    def __init__(
        self,
        conversation: Conversation,
        jinja: JinjaTemplate,
        habits: Habits,
        controls: Controls,
        without_empty: frozenset[int] = frozenset(),
    ) -> None:
        _refuse_losses(conversation, habits, jinja)
        self._jinja, self._habits, self._controls = jinja, habits, controls
        self._without_empty = without_empty
        guarded = controls.guard_conversation(conversation)
        groups, self._tools = spell(habits.spelling, habits.wishes, guarded.messages, guarded.tools)
        self.messages = guarded.messages
        self._dicts: list[dict[str, Any]] = []
        self._ends = [0]  # how many dicts the messages before each message have
        for group in groups:
            self._dicts += group
            self._ends.append(len(self._dicts))

    def text(self, count: int, *, prompt: bool) -> str:
        """The first `count` messages; `prompt`: with the generation prompt after them."""
        return self._jinja.render(self._dicts[: self._ends[count]], self._tools, prompt)

    def prompt(self, count: int) -> Transcript:
        """The prompt after `count` messages, in one piece, as an engine feeds it."""
        text = self.text(count, prompt=True)
        self._refuse_unprinted(text, count)
        return Transcript(text, (), images=self._images(count))

    def alone(self, turn: int) -> Transcript:
        """The prompt of `turn` and what the model writes there, the only turn that is trained."""
        prompt = self.prompt(turn)
        written, stop = self.written(turn)
        start = len(prompt.text) + self._skipped(turn, written)
        place = Turn(turn, start, len(prompt.text) + len(written), stop)
        return Transcript(prompt.text + written, (place,), frozenset([turn]), prompt.images)

    def follow(self, turns: Sequence[int], trained: frozenset[int] = frozenset()) -> Transcript | None:
        """One text that ends with the last of `turns` and holds each as the model writes it.

        None where there is none: the template rewrites what was written, or a turn is not followed by its own
        stop token.
        """
        text, places = "", []
        for i in turns:
            prompt = self.text(i, prompt=True)
            if not prompt.startswith(text) or (written := self._written(i, prompt)) is None:
                return None
            text = prompt + written[0]
            places.append(Turn(i, len(prompt) + self._skipped(i, written[0]), len(text), written[1]))
        self._refuse_unprinted(text, turns[-1])
        return Transcript(text, tuple(places), trained, self._images(turns[-1]))

    def _skipped(self, i: int, written: str) -> int:
        """Characters at the head of turn `i` that are not for the model to write."""
        return empty_thoughts(written, self._habits.marks) if i in self._without_empty else 0

    def _images(self, count: int) -> tuple[Image, ...]:
        return tuple(image for message in self.messages[:count] for image in message.images)

    def _refuse_unprinted(self, text: str, count: int) -> None:
        """Refuse a text that lacks what was said or shown to the model: some templates print only a part."""
        images, token = self._images(count), self._habits.image_token
        if token is not None and (printed := text.count(token)) != len(images):
            at = images[0].at if images else ()
            raise TemplateError(f"{len(images)} images, and the chat template prints {printed} of them", at)
        if (missing := first_unprinted(text, self.messages[:count])) is not None:
            message = self.messages[missing]
            what = f"message {missing + 1} ({message.role}): the chat template does not print it as it is"
            raise TemplateError(f"{what}; leave it out, or join it with its neighbour", message.at)

    def written(self, i: int) -> tuple[str, str]:
        """What the model writes as message `i`, its stop token last, and that token."""
        prompt = self.text(i, prompt=True)
        if (written := self._written(i, prompt)) is not None:
            return written
        message = self.messages[i]
        why = self._why_not(message, prompt)
        raise TemplateError(f"message {i + 1}: the chat template does not print {why}", message.at)

    def _written(self, i: int, prompt: str) -> tuple[str, str] | None:
        """What the model writes after `prompt`, and the stop token at its end."""
        message, habits = self.messages[i], self._habits
        turn = self._turn(i, prompt)
        if turn is None:
            return None
        if habits.frames_answers:
            turn = f"<think>{_reasoning(message)}</think>{habits.lead}{turn}"
        end = (habits.call_end if message.tool_calls else None) or habits.answer_end
        if habits.closes:
            rest = habits.call_rest if len(message.tool_calls) == 1 and end not in turn else ""
            whole = turn.rstrip("\n") + rest if rest else turn
            turn = next((part for part in _ended(whole, end) if unwritten(part, message) is None), whole)
        else:
            turn = turn.removesuffix(habits.extra).removesuffix(end)
        if (lost := unwritten(turn, message)) is not None:
            what = f"message {i + 1}: the chat template does not print {lost} unchanged"
            raise TemplateError(f"{what}; it cannot be learnt exactly", message.at)
        if habits.closes and turn is whole:
            return None
        stop = self._controls.last(end) or end
        ends = (stop, *(self._controls.last(other) for other in (habits.answer_end, habits.call_end or "")))
        if inside := next((other for other in ends if other and other in turn), None):
            raise TemplateError(
                f"message {i + 1}: the chat template has the stop token {inside} inside this turn, where a "
                'model would stop; keep it as context with "train": false',
                message.at,
            )
        return turn + end, stop

    def _turn(self, i: int, prompt: str) -> str | None:
        """What follows `prompt` in the text with message `i`.

        Where the template prints what stands before the turn otherwise once the turn is there, the same turn
        behind the last question alone is looked at.
        """
        reasoning, marks = _reasoning(self.messages[i]), self._habits.marks
        through = self.text(i + 1, prompt=False)
        if (turn := continuation(prompt, through, reasoning, marks)) is not None:
            return turn
        if turn := self._from_last_words(i, prompt, through):
            return turn
        asked = max((n for n in range(i) if self.messages[n].role == "user"), default=None)
        if asked is None:
            return None
        question = self._dicts[self._ends[asked] : self._ends[asked + 1]]
        said = self._dicts[self._ends[i] : self._ends[i + 1]]
        try:
            alone = self._jinja.render(question, self._tools, True)
            answered = self._jinja.render([*question, *said], self._tools, False)
        except TemplateError:
            return None
        tail = answered[len(agreed(alone, answered)) :]
        return continuation(alone, answered, reasoning, marks) if through.endswith(tail) else None

    def _from_last_words(self, i: int, prompt: str, through: str) -> str | None:
        """The turn, where both texts are the same from the last words before it on, which stand there once."""
        said = self.messages[i - 1].content.strip() if i else ""
        if not said or prompt.count(said) != 1 or through.count(said) != 1:
            return None
        texts = prompt[prompt.index(said) :], through[through.index(said) :]
        return continuation(*texts, _reasoning(self.messages[i]), self._habits.marks)

    def _why_not(self, message: Message, prompt: str) -> str:
        """Which part is not printed as the model would write it, and what helps."""
        if message.reasoning and Prompt.of(prompt, self._habits.marks).state == "closed":
            helps = what_helps_thoughts(self._jinja, self._habits.marks)
            return f"thoughts: its generation prompt has closed them; {helps}"
        helps = 'keep it as context with "train": false'
        if message.reasoning:
            helps = "without its thoughts it might: set data_config.thinking: drop"
        return (
            "this turn as a continuation of its own generation prompt, ended by a stop token; it cannot be "
            f"trained exactly; {helps}"
        )


def what_helps_thoughts(jinja: JinjaTemplate, marks: Marks) -> str:
    """What to set where a template does not print thoughts: the variable that opens them, if there is one."""
    for name in jinja.variables_read():
        try:
            text = jinja.with_values({name: True}).render([{"role": "user", "content": "q"}], None, True)
        except TemplateError:
            continue
        state = Prompt.of(text, marks).state
        if state == "opened" or (marks.found and state == "plain"):
            return f"set model_config.chat_template_kwargs: {{{name}: true}}, or set data_config.thinking: drop"
    return "set data_config.thinking: drop, or put them into the content"


def _ended(turn: str, end: str) -> Iterator[str]:
    """`turn` up to each place where `end` stands, the first place first."""
    parts = turn.split(end)
    return (end.join(parts[:count]) for count in range(1, len(parts)))


def _reasoning(message: Message) -> str:
    return (message.reasoning or "").strip("\n")


def _refuse_losses(conversation: Conversation, habits: Habits, jinja: JinjaTemplate) -> None:
    """Refuse what the template would drop without a word."""
    if habits.needs_tools and not conversation.tools:
        raise TemplateError(
            "the chat template renders nothing without tools; give the record `tools`, or set "
            "model_config.chat_template"
        )
    if conversation.tools and not habits.tells_tools:
        raise TemplateError(
            "the chat template does not print tools; remove them, or give another chat_template"
        )
    for number, message in enumerate(conversation.messages, 1):
        if message.reasoning and not habits.thinks:
            lost: str | None = f"thoughts (reasoning); {what_helps_thoughts(jinja, habits.marks)}"
        else:
            lost = _lost(message, habits)
        if lost:
            raise TemplateError(f"message {number}: the chat template does not print {lost}", message.at)


def _lost(message: Message, habits: Habits) -> str | None:
    """What of this message the template would not print."""
    if message.images and message.role == "assistant":
        return "images that the assistant shows: a model writes text"
    if message.images and habits.image_token is None:
        lacks = "image_token_id in config.json, a preprocessor_config.json of a kind known here"
        return f"images; the model sees none, or its checkpoint lacks {lacks}, or a template with its token"
    if habits.cuts_thoughts and "</think>" in message.content:
        return "what stands before '</think>' in a content; thoughts belong into `reasoning_content`"
    if message.role == "tool" and not habits.tells_results:
        return "tool results"
    if message.tool_calls and habits.call_end is None:
        return "tool calls"
    if message.tool_calls and message.content.strip() and not habits.says_before_calls:
        return "the text beside tool calls; leave it out"
    return None
