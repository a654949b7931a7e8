"""What a chat template does with a turn, found by rendering small conversations and looking.

How a turn ends is what a model must learn to write, and every family has its own way: Qwen closes a turn with
`<|im_end|>`, Mistral with `</s>`; GLM-4 leaves it open and the next role's marker ends it, `<|user|>` after an
answer and `<|observation|>` after a tool call. None of this is told by a model's name, all by its template.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from finetune.chat.call_format import learn_calls
from finetune.chat.calls import CallReader, KeyedCalls
from finetune.chat.continuation import NO_MARKS, Marks, Prompt, agreed, continuation, learn_marks
from finetune.chat.controls import Controls
from finetune.chat.dialects import GLM4, REASONING_KEYS, Spelling, Wishes, spell
from finetune.chat.jinja import Messages, Tools
from finetune.chat.messages import Image, Message, Tool, ToolCall
from finetune.errors import TemplateError

Render = Callable[[Messages, Tools | None, bool], str]

_USER = Message("user", "Qzuserq")
_ANSWER = Message("assistant", "Qzanswerq")
_SYSTEM = Message("system", "Qzsystemq")
_RESULT = Message("tool", "Qzresultq")
_TOOL = Tool("qztoolq", "Qzusesq", {"type": "object", "properties": {"qzkeyq": {"type": "string"}}})
_CALL = ToolCall("qztoolq", {"qzkeyq": "Qzvalueq"}, "qzcall001")
_SHOWING = Message("user", "Qzbelowq", images=(Image(offset=len("Qz")),))
_CALLING = Message("assistant", "", (_CALL,))
_CALLING_BY_LONG_ID = Message("assistant", "", (replace(_CALL, id="call_qz_0123456789"),))
_SAYING = Message("assistant", "Qzbeforeq", (_CALL,))
_THINKING = Message("assistant", "Qzanswerq", reasoning="Qzthoughtq")
_CALLING_TWICE = Message(
    "assistant", "", (_CALL, replace(_CALL, arguments={"qzkeyq": "Qzlastq"}, id="qzcall002"))
)

ANSWER_FRAME = ("<answer>", "</answer>")
FRAME_TOKENS = ("<think>", "</think>", *ANSWER_FRAME)
"""A tokenizer that has all four is of a model that writes `<think>…</think><answer>…</answer>` (GLM-4.1V)."""


@dataclass(frozen=True, slots=True)
class Habits:
    """How one template writes.

    `closes`: it ends every turn itself; else the next role's marker does.
    `answer_end`, `call_end`: what ends a turn, the stop token last; `call_end` None: it cannot write calls.
    `lead`, `trail`: what it writes between generation prompt and answer, and between answer and end.
    `call_rest`: what one call lacks of the end that several have (DeepSeek-R1), and the model must write too.
    `opens_thoughts`: its generation prompt ends in `<think>`. `marks`: what stands around thoughts.
    `needs_tools`: it renders nothing without tools.
    `extra`: the generation prompt, where the template prints it behind an answer too, asked or not.
    `cuts_thoughts`: it drops what stands before `</think>` in a content.
    `frames_answers`: the model writes `<think>…</think><answer>…</answer>`, its template the bare answer.
    `bare_end`: what would end an answer that the model has not framed.
    `says_before_calls`: it prints the text that stands beside a tool call, before it.
    `read_calls`: None where no spelling could be learnt that reads its calls back.
    `image_token`: what it prints for an image; None: it prints none.
    """

    spelling: Spelling
    wishes: Wishes
    closes: bool
    answer_end: str
    call_end: str | None
    lead: str
    trail: str
    thinks: bool
    opens_thoughts: bool
    cuts_thoughts: bool
    frames_answers: bool
    bare_end: str
    tells_tools: bool
    tells_results: bool
    says_before_calls: bool
    read_calls: CallReader | None
    image_token: str | None = None
    marks: Marks = NO_MARKS
    call_rest: str = ""
    extra: str = ""
    needs_tools: bool = False

    @property
    def name(self) -> str:
        """For people: which family this behaves like."""
        if self.frames_answers:
            return "glm4.1v"
        if self.spelling is GLM4 and self.opens_thoughts:
            return "glm-z1"
        if self.spelling is GLM4:
            return "glm4" if self.wishes.tools_on_message else "glm4-0414"
        if self.closes or self.read_calls is None or not isinstance(self.read_calls.form, KeyedCalls):
            return "generic"
        return "glm4.7" if self.opens_thoughts else "glm4.5"


class Observer:
    """Renders small conversations through one template, under growing knowledge of its wishes and marks.

    `tools`: those that every rendering has, because the template cannot do without.
    """

    def __init__(self, render: Render, controls: Controls, spelling: Spelling) -> None:
        self.render = render
        self.controls = controls
        self.spelling = spelling
        self.wishes = Wishes()
        self.marks = Marks()
        self.tools: Sequence[Tool] = ()
        self.tools = () if self.renders(_USER) or not self.renders(_USER, tools=[_TOOL]) else [_TOOL]

    def text(self, *messages: Message, tools: Sequence[Tool] = (), prompt: bool = False) -> str:
        groups, argument = spell(self.spelling, self.wishes, messages, tools or self.tools)
        return self.render([spelt for group in groups for spelt in group], argument, prompt)

    def shows(self, what: str, *messages: Message, tools: Sequence[Tool] = (), prompt: bool = False) -> bool:
        """Does `what` come through? A refusal is a no."""
        try:
            return what in self.text(*messages, tools=tools, prompt=prompt)
        except TemplateError:
            return False

    def renders(self, *messages: Message, tools: Sequence[Tool] = ()) -> bool:
        return self.shows("", *messages, tools=tools)

    def written(self, message: Message) -> str | None:
        """What the model writes behind a question as `message`. Raises TemplateError where that is refused."""
        prompt, through = self.behind_question(prompt=True), self.behind_question(message)
        return continuation(prompt, through, "", self.marks)

    def behind_question(self, *messages: Message, prompt: bool = False) -> str:
        """The text from a question on: what stands before it may differ with what follows."""
        text = self.text(_USER, *messages, prompt=prompt)
        return text[max(text.find(_USER.content), 0) :]

    def wish(self, **changes: Any) -> None:
        self.wishes = replace(self.wishes, **changes)


def observe(
    render: Render,
    controls: Controls,
    spelling: Spelling,
    eos: str | None,
    *,
    name: str,
    image_token: str | None = None,
) -> Habits:
    """Learn the habits of the template called `name`.

    Raises TemplateError where it cannot hold even a question and an answer.
    """
    see = Observer(render, controls, spelling)
    closes, answer_end = _answer_end(see, eos, name)
    see.wish(system_role=see.shows(_SYSTEM.content, _SYSTEM, _USER))
    tells_tools = _find_tools(see)
    see.marks = _find_marks(see)
    see.wish(named_call_ids=_names_by_ids(see))
    call_end, reader = _calls(see, closes, answer_end, eos)
    see.wish(short_call_ids=call_end is not None and not see.shows(_CALL.name, _USER, _CALLING_BY_LONG_ID))
    call_end, call_rest = _end_of_several(see, call_end) if closes and call_end else (call_end, "")
    see.wish(empty_content_as_null=see.wishes.empty_content_as_null or _null_says_less(see))
    opened = Prompt.of(see.text(_USER, prompt=True), see.marks).state == "opened"
    thinks = opened or see.marks.found or see.shows("Qzthoughtq", _USER, _THINKING)
    frames = not closes and not thinks and set(FRAME_TOKENS) <= set(controls.tokens)
    lead, trail = (ANSWER_FRAME[0], "") if frames else _around(see, answer_end)
    return Habits(
        spelling=spelling,
        wishes=see.wishes,
        closes=closes,
        answer_end=ANSWER_FRAME[1] if frames else answer_end,
        call_end=call_end,
        lead=lead,
        trail=trail,
        thinks=thinks or frames,
        opens_thoughts=opened,
        cuts_thoughts=_cuts_thoughts(see),
        frames_answers=frames,
        bare_end=answer_end,
        tells_tools=tells_tools,
        tells_results=call_end is not None and see.shows("Qzresultq", _USER, _CALLING, _RESULT, prompt=True),
        says_before_calls=_says_before_calls(see),
        read_calls=reader,
        image_token=image_token if image_token and _shows_images(see, image_token) else None,
        marks=see.marks,
        call_rest=call_rest,
        extra="" if closes else _unasked_prompt(see),
        needs_tools=bool(see.tools),
    )


def _shows_images(see: Observer, token: str) -> bool:
    """Whether it prints an image once, between the texts that stand before and behind it."""
    try:
        before, *behind = see.text(_USER, _ANSWER, _SHOWING, prompt=True).split(token)
    except TemplateError:
        return False
    return len(behind) == 1 and "Qz" in before.rpartition(_ANSWER.content)[2] and "belowq" in behind[0]


def _answer_end(see: Observer, eos: str | None, name: str) -> tuple[bool, str]:
    """Whether the template closes an answer, and what ends it, the stop token last."""
    said = _ANSWER.content
    if not see.shows(said, _USER, _ANSWER):
        see.text(_USER, _ANSWER)  # a refusal is told in the template's own words
        raise TemplateError(f"{name}: the chat template does not print the assistant's answer")
    if stop := _closing(see, said, [_USER, _ANSWER], [_USER]):
        return True, stop
    if following := _following(see, said, _USER, _ANSWER, _USER):
        return False, following
    if eos:
        return False, eos
    raise TemplateError(
        f"{name}: the chat template ends an assistant's turn with no control token, and the tokenizer has no "
        "eos_token: a model could not learn to stop; set eos_token in tokenizer_config.json"
    )


def _closing(
    see: Observer, last_words: str, messages: Sequence[Message], following: Sequence[Message]
) -> str | None:
    """The last control token after `last_words` that stays there when other messages follow.

    Some templates end a whole conversation with one more token: no model has to write that. Nor what begins the
    next turn, where the template prints the generation prompt unasked.
    """
    tail = see.text(*messages).rpartition(last_words)[2]
    try:
        longer = see.text(*messages, *following).partition(last_words)[2]
    except TemplateError:
        longer = tail
    kept = agreed(tail, longer)
    if _unasked_prompt(see):
        return see.controls.last_in(kept.partition(_opener(see))[0]) or see.controls.last_in(kept)
    return see.controls.last_in(kept) or see.controls.last_in(tail)


def _unasked_prompt(see: Observer) -> str:
    """What follows a question though no generation prompt was asked for; "" where the template waits for it."""
    text = see.text(_USER)
    return text.rpartition(_USER.content)[2] if text == see.text(_USER, prompt=True) else ""


def _opener(see: Observer) -> str:
    """The control token that a turn begins with: the first one that longer texts have more often."""
    one, more = see.text(_USER), see.text(_USER, _ANSWER, _USER)
    return next((token for token in see.controls.all_in(one) if more.count(token) > one.count(token)), "\0")


def _find_marks(see: Observer) -> Marks:
    """What stands around thoughts, on answers or else on calls, and the key where the template looks for it."""
    for calls, key in product((False, True), REASONING_KEYS):
        see.wish(reasoning_key=key)
        for as_null, as_text in product((False, True), repeat=2) if calls else [(False, False)]:
            see.wish(arguments_as_text=as_text, empty_content_as_null=as_null)
            marks = _marks_of(see, calls)
            see.wish(arguments_as_text=False, empty_content_as_null=False)
            if marks is not None:
                return marks
    see.wish(reasoning_key=REASONING_KEYS[0])
    return Marks()


def _marks_of(see: Observer, calls: bool) -> Marks | None:
    thinking = replace(_THINKING, tool_calls=(_CALL,) if calls else ())
    silent = replace(thinking, content="")
    for message, said in ((thinking, _ANSWER.content), *([(silent, _CALL.name)] if calls else [])):
        try:
            texts = see.behind_question(prompt=True), see.behind_question(replace(message, reasoning=None))
            marks = learn_marks(
                *texts, see.behind_question(message), "Qzthoughtq", said, answers=said == _ANSWER.content
            )
        except TemplateError:
            continue
        if marks is not None:
            return marks
    return None


def _cuts_thoughts(see: Observer) -> bool:
    text = see.controls.guard("Qzcutq</think>Qzkeptq")
    asking, answering = Message("user", text), Message("assistant", text)
    return not (see.shows("Qzcutq", asking) and see.shows("Qzcutq", _USER, answering))


def _following(see: Observer, last_words: str, *messages: Message) -> str | None:
    """White space and the first control token right after `last_words`, where the next role's marker is one."""
    try:
        tail = see.text(*messages).partition(last_words)[2]
    except TemplateError:
        return None
    marker = see.controls.first(tail)
    between = tail[: tail.index(marker)] if marker else ""
    return between + marker if marker and not between.strip() else None


def _find_tools(see: Observer) -> bool:
    """Tools may be an argument of the template or a key of a message; given in the wrong place they vanish."""
    for on_message in (False, True):
        see.wish(tools_on_message=on_message)
        if see.shows(_TOOL.name, _USER, tools=[_TOOL]):
            return True
    see.wish(tools_on_message=False)
    return False


def _names_by_ids(see: Observer) -> bool:
    """Whether a call is named by its id alone, as in Kimi's `functions.name:0`."""
    by_id = replace(_CALLING, tool_calls=(replace(_CALL, id=f"functions.{_CALL.name}:0"),))
    return see.shows(_CALL.name, _USER, by_id) and not see.shows(_CALL.name, _USER, _CALLING)


def _end_of_several(see: Observer, end: str) -> tuple[str, str]:
    """What ends several calls, and what of that one call lacks, where the template closes one call by less."""
    try:
        stop = _closing(see, "Qzlastq", [_USER, _CALLING_TWICE], [_RESULT, _RESULT])
        several = see.text(_USER, _CALLING_TWICE).rpartition("Qzlastq")[2]
    except TemplateError:
        return end, ""
    if stop is None or stop == end:
        return end, ""
    one = see.text(_USER, _CALLING).rpartition("Qzvalueq")[2].rpartition(end)[0] + end
    whole = several.rpartition(stop)[0] + stop
    return (stop, whole.removeprefix(one)) if whole.startswith(one) else (end, "")


def _null_says_less(see: Observer) -> bool:
    """Whether empty content is printed as an empty answer beside the call, and null is not."""

    def told() -> str:
        try:
            return see.text(_USER, _CALLING, _RESULT, prompt=True)
        except TemplateError:
            return see.text(_USER, _CALLING)

    wishes = see.wishes
    try:
        empty = told()
        see.wish(empty_content_as_null=True)
        null = told()
    except TemplateError:
        return False
    finally:
        see.wishes = wishes
    return (
        len(null) < len(empty)
        and all(word in null for word in ("Qzvalueq", _CALL.name))
        and (_RESULT.content in null or _RESULT.content not in empty)
    )


def _calls(
    see: Observer, closes: bool, answer_end: str, eos: str | None
) -> tuple[str | None, CallReader | None]:
    """What ends a tool call, and the reader that reads the template's own example back. None: calls vanish.

    Arguments are tried as an object, then as text; content that is empty as text, then as null.
    """
    first: tuple[Wishes, str] | None = None
    for as_null, as_text in product((False, True), (False, True)):
        see.wish(arguments_as_text=as_text, empty_content_as_null=as_null)
        if _written_call(see) is None:
            continue
        end = _call_end(see, closes) or answer_end
        if reader := _reader_of(see, end if closes else "", answer_end, eos):
            return end, reader
        first = first or (see.wishes, end)
    see.wish(arguments_as_text=False, empty_content_as_null=False)
    return (first[1], None) if first else (None, None)


def _says_before_calls(see: Observer) -> bool:
    try:
        text = see.text(_USER, _SAYING)
    except TemplateError:
        return False
    return 0 <= text.rfind(_SAYING.content) < text.rfind(_CALL.name)


def _call_end(see: Observer, closes: bool) -> str | None:
    if closes:
        return _closing(see, "Qzvalueq", [_USER, _CALLING], [_RESULT])
    tail = see.text(_USER, _CALLING, _RESULT).removeprefix(see.text(_USER, _CALLING))
    marker = see.controls.first(tail)
    return marker if marker and tail.startswith(marker) else None


def _reader_of(see: Observer, end: str, answer_end: str, eos: str | None) -> CallReader | None:
    """What reads calls back; None where none was found. `end`: what closes a turn, where the template does."""
    stops = {see.controls.last(stop) for stop in (end, answer_end, eos or "")} - {None}

    def write(message: Message) -> str | None:
        written = _written_turn(see, message)
        if written is None or end not in written:
            return None
        body = written.rpartition(end)[0] if end else written
        while (last := see.controls.last(body.rstrip())) in stops:
            body = body.rstrip().removesuffix(last or "")
        return None if any(stop in body for stop in stops if stop) else body

    return learn_calls(write)


def _written_call(see: Observer) -> str | None:
    written = _written_turn(see, _CALLING)
    return written if written and _CALL.name in written and "Qzvalueq" in written else None


def _written_turn(see: Observer, message: Message) -> str | None:
    """What the model writes as `message`, without thoughts. None: the template refuses it."""
    try:
        written = see.written(message)
    except TemplateError:
        return None
    opening, closing = see.marks.tags
    thoughts, found, rest = (written or "").partition(closing)
    opened = not thoughts.strip() or thoughts.lstrip().startswith(opening)
    opened = opened or Prompt.of(see.text(_USER, prompt=True), see.marks).state == "opened"
    return rest.lstrip("\n") if found and opened else written


def _around(see: Observer, answer_end: str) -> tuple[str, str]:
    """What a turn has before the answer (its thoughts closed) and between the answer and its end."""
    written = see.written(_ANSWER) or ""
    lead, _, trail = written.partition(_ANSWER.content)
    return lead.rpartition(see.marks.tags[1])[2], trail.partition(answer_end)[0]
