"""What transformers' own rendering says about a turn: the prompt an engine feeds, what the model writes.

Nothing here uses the renderer under test. Words that stand in no template (see conversations.py) show where the
parts of a turn are; the stop tokens are a table (families.py).
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

from transformers import PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import _compile_jinja_template, render_jinja_template

from finetune.chat.jinja import CLOCK
from tests.chat.real.conversations import Dict, Talk
from tests.chat.real.families import Pair

WORD = re.compile(r"[Qq]z[a-z]+[0-9]?w")

_OPEN = (
    r"<think(?::opensource)?>|\[THINK\]|<\|channel>thought|<seed:think>|<\|START_THINKING\|>|<\|inner_prefix\|>|<mm:think>|"
    r"<\|open\|>think<\|sep\|>|<\|think\|>|<\|channel\|>analysis<\|message\|>|to=self<\|message\|>|"
    r"Here are my reasoning steps:|<thinking>"
)
_CLOSE = (
    r"</think(?::opensource)?>|\[/THINK\]|<channel\|>|</seed:think>|<\|END_THINKING\|>|<\|inner_suffix\|>|</mm:think>|"
    r"<\|close\|>think<\|sep\|>|<\|end\|><\|begin\|>assistant|<\|end\|><\|start\|>assistant|"
    r"<\|eom\|><\|start\|>assistant|\[BEGIN FINAL RESPONSE\]|</thinking>"
)
THOUGHTS = re.compile(rf"\s*(?:(?:{_OPEN})(?P<text>(?:(?!{_OPEN}|{_CLOSE}).)*?))?(?:{_CLOSE})\s*", re.DOTALL)
OPENED = re.compile(rf"(?:{_OPEN})\s*\Z")


class Refused(Exception):
    """The template prints not all of a conversation, in no form that an engine gives it."""


@dataclass(frozen=True)
class Form:
    """How an engine may hand the same conversation to a template.

    `short_ids`: of nine letters (Mistral); `named_ids`: `functions.NAME:N` (Kimi).
    """

    null: bool = False
    text_arguments: bool = False
    short_ids: bool = False
    named_ids: bool = False
    merged: bool = False
    parts: bool = False


FORMS = [
    Form(*flags)
    for flags in sorted(product((False, True), repeat=6), key=lambda flags: (sum(flags), flags))
    if not (flags[2] and flags[3])
]


def words(value: Any) -> list[str]:
    """Every word of ours in `value`, in order."""
    if isinstance(value, str):
        return WORD.findall(value)
    if isinstance(value, dict):
        return [word for item in value.values() for word in words(item)]
    return [word for item in value for word in words(item)] if isinstance(value, list | tuple) else []


def body_words(message: Dict) -> list[str]:
    """Of an assistant's turn, its thoughts left out: text, then calls."""
    content = (message["content"] or "").rpartition("</think>")[2]
    calls = [
        (call["function"]["name"], call["function"]["arguments"]) for call in message.get("tool_calls", ())
    ]
    return words(content) + words(calls)


def thought_words(message: Dict) -> list[str]:
    inline = (message["content"] or "").rpartition("</think>")[0]
    return words(message.get("reasoning_content") or "") + words(inline)


class Oracle:
    """One template as transformers renders it, for one conversation."""

    def __init__(
        self,
        pair: Pair,
        source: str,
        tokenizer: PreTrainedTokenizerFast,
        talk: Talk,
        options: dict[str, Any] | None = None,
    ) -> None:
        self.pair, self.source, self.tokenizer, self.talk = pair, source, tokenizer, talk
        self.options = options or {}
        self._texts: dict[Any, str] = {}

    def render(self, count: int, prompt: bool, form: Form, more: Dict | None = None) -> str:
        key = (count, prompt, form, more and more["role"])
        if key not in self._texts:
            self._texts[key] = self._render(count, prompt, form, [more] if more else [])
        return self._texts[key]

    def _render(self, count: int, prompt: bool, form: Form, more: Sequence[Dict]) -> str:
        messages = list(_formed([*self.talk.messages[:count], *more], form))
        _compile_jinja_template(self.source).environment.globals["strftime_now"] = CLOCK.strftime
        kwargs: dict[str, Any] = {
            **self.options,
            "tools": [*self.talk.tools] or None,
            "add_generation_prompt": prompt,
        }
        (text,), _ = render_jinja_template(
            [messages], chat_template=self.source, **kwargs, **self.tokenizer.special_tokens_map
        )
        return str(text)

    @cached_property
    def forms(self) -> list[Form]:
        """The forms in which the template prints all of the conversation, the likeliest first.

        A system text is merged with a question, and content given as parts, only where nothing else is printed.
        """
        applicable = [form for form in FORMS if self._applies(form)]
        for merged, parts in product((False, True), repeat=2):
            group = [form for form in applicable if (form.merged, form.parts) == (merged, parts)]
            if found := [form for form in group if self._prints(form)]:
                return found
        return []

    def _applies(self, form: Form) -> bool:
        messages = self.talk.messages
        calls = any("tool_calls" in message for message in messages)
        if form.merged and messages[0]["role"] != "system":
            return False
        return calls or not (form.null or form.text_arguments or form.short_ids or form.named_ids)

    def _prints(self, form: Form) -> bool:
        """Is every word there: of the prompt before each turn, and of the turn?"""
        try:
            return all(self._prints_turn(i, form) for i in self.turns)
        except Exception:  # foreign code refuses in its own ways
            return False

    def _prints_turn(self, i: int, form: Form) -> bool:
        asked = max(j for j in range(i) if self.talk.messages[j]["role"] == "user")
        heard = [
            m for j, m in enumerate(self.talk.messages[:i]) if m["role"] in ("user", "system") or j > asked
        ]
        prompt, through = self.render(i, True, form), self.render(i + 1, False, form)
        heard_words = [word for m in heard if m["role"] != "assistant" for word in words(m["content"])]
        heard_words += [t["function"]["name"] for t in self.talk.tools]
        known = all(word in prompt for word in heard_words)
        return known and _in_order(body_words(self.talk.messages[i]), through.rpartition(_last(heard))[2])

    @property
    def turns(self) -> list[int]:
        return [
            i for i, m in enumerate(self.talk.messages) if m["role"] == "assistant" and m.get("train", True)
        ]

    def thinks(self) -> bool:
        """Does this family think at all? It prints a thought somewhere, or its prompt opens one."""
        return any(self._shows_thought(form, calls) for form in FORMS[:11] for calls in (False, True))

    def _shows_thought(self, form: Form, calls: bool) -> bool:
        call = {"id": "abcdefghi", "type": "function", "function": {"name": "f", "arguments": {"x": "y"}}}
        said = {"role": "assistant", "content": "" if calls else "a", "reasoning_content": "Qzprobew"}
        talk = Talk(
            "", "", [{"role": "user", "content": "q"}, said | ({"tool_calls": [call]} if calls else {})]
        )
        other = Oracle(self.pair, self.source, self.tokenizer, talk, self.options)
        try:
            return "Qzprobew" in other.render(2, False, form) or bool(
                OPENED.search(other.render(1, True, form))
            )
        except Exception:
            return False

    # ------------------------------------------------------------ one turn

    def prompts(self, i: int) -> set[str]:
        return {self.render(i, True, form) for form in self.forms}

    def wrong_turn(self, i: int, prompt: str, written: str) -> str | None:
        """What is wrong with `written` behind `prompt`; None: it is what the model must write."""
        found = [
            self._wrong(i, prompt, written, form) for form in self.forms if self.render(i, True, form) == prompt
        ]
        if not found:
            return "another prompt than an engine's"
        return None if None in found else found[0]

    def _wrong(self, i: int, prompt: str, written: str, form: Form) -> str | None:
        message = self.talk.messages[i]
        said, thought = body_words(message), thought_words(message)
        stop = next((stop for stop in self.pair.stops if written.endswith(stop)), None)
        if stop is None:
            return "no stop token at its end"
        if not _in_order(said, written) or any(
            written.count(word) != said.count(word) for word in said if word not in self._names
        ):
            return "not all of its text and calls"
        if wrong := self._wrong_tail(i, written, stop, form):
            return wrong
        return self._wrong_head(i, prompt, written, form) or _wrong_thought(
            _behind(prompt, self._heard(i)) + written.partition(self._first_call(message) or said[0])[0],
            thought,
            said,
        )

    def _first_call(self, message: Dict) -> str:
        """Its name: gpt-oss prints the text beside a call as a thought before it."""
        return str(message["tool_calls"][0]["function"]["name"]) if "tool_calls" in message else ""

    @property
    def _names(self) -> list[str]:
        """Of functions: some families write them twice."""
        return [t["function"]["name"] for t in self.talk.tools]

    def _heard(self, i: int) -> str:
        return _last([m for m in self.talk.messages[:i] if m["role"] != "assistant"])

    def _wrong_tail(self, i: int, written: str, stop: str, form: Form) -> str | None:
        """Behind the last word: what the template prints up to a stop token, or a stop where it is open."""
        last = body_words(self.talk.messages[i])[-1]
        tail = written.rpartition(last)[2]
        through = self.render(i + 1, False, form).rpartition(last)[2]
        follows = [through]
        for role in ("user", "tool"):
            try:
                more = {"role": role, "content": "Qznextw"}
                longer = self.render(i + 1, False, form, more).partition("Qznextw")[0].rpartition(last)[2]
            except Exception:
                continue
            follows.append(longer)
        ends = {_up_to_stop(text, self.pair.stops) for text in follows} - {None}
        opened = {_agreed(through, text) + stop for text in follows} | {through.rstrip() + stop}
        opened |= {text.rstrip() + stop for text in opened} if not ends else set()
        return None if tail in ends or (not ends and (tail in opened or tail == stop)) else f"ends in {tail!r}"

    def _wrong_head(self, i: int, prompt: str, written: str, form: Form) -> str | None:
        """Before the first word: what the template prints there, thoughts aside."""
        first, heard = body_words(self.talk.messages[i])[0], self._heard(i)
        head = written.partition(first)[0]
        through = self.render(i + 1, False, form)
        printed = _behind(through, heard).partition(first)[0]
        whole = _behind(prompt, heard) + head
        if whole == printed or _without_thoughts(whole) == _without_thoughts(printed):
            return None
        if _behind(self.render(i, False, form), heard) + head == printed:  # no generation prompt in history
            return None
        before = printed.removesuffix(head)  # a template may print a result otherwise once an answer follows
        if printed.endswith(head) and len(re.findall(r"\w", _agreed_end(before, prompt))) > 4:
            return None
        return f"begins with {head!r} where the template prints {printed!r}"


def _wrong_thought(head: str, thought: list[str], said: list[str]) -> str | None:
    """`head`: from the prompt's last word to the answer. One block of thoughts at most, and it is whole."""
    if opened := re.search(_OPEN, head):
        head = head[opened.start() :]
    opens, closes = len(re.findall(_OPEN, head)), len(re.findall(_CLOSE, head))
    if opens > 1 or closes > 1 or opens > closes:
        return f"thoughts opened {opens} times and closed {closes} times"
    found = THOUGHTS.search(head)
    if not thought:
        return "thoughts that nobody said" if found and set(words(found["text"] or "")) - set(said) else None
    return None if found and words(found["text"] or "") == thought else "not its thoughts"


def _formed(messages: Sequence[Dict], form: Form) -> Iterator[Dict]:
    waiting: list[Dict] = []
    opening, made = "", 0
    for number, message in enumerate(messages):
        message = {key: value for key, value in message.items() if key != "train"}
        if form.merged and message["role"] == "system":
            opening = message["content"] + "\n\n"
            continue
        if message["role"] == "user":
            message["content"], opening = opening + message["content"], ""
        message |= _apart(message) if message["role"] == "assistant" else {}
        if "tool_calls" in message:
            message["tool_calls"] = [
                _called(c, number, n, made + n, form) for n, c in enumerate(message["tool_calls"])
            ]
            made += len(message["tool_calls"])
            message["content"] = message["content"] or (None if form.null else "")
            waiting = [*message["tool_calls"]]
        elif message["role"] == "tool" and waiting:
            done = waiting.pop(0)
            message |= {"tool_call_id": done["id"], "name": done["function"]["name"]}
        if form.parts and message["content"]:
            message["content"] = [{"type": "text", "text": message["content"]}]
        yield message


def _apart(message: Dict) -> Dict:
    """Thoughts in their field, as engines hand back what a model wrote."""
    content = message["content"] or ""
    if not content.startswith("<think>"):
        return {}
    thought, _, rest = content.removeprefix("<think>").partition("</think>")
    return {"reasoning_content": thought.strip(), "content": rest.lstrip()}


def _called(call: Dict, number: int, place: int, count: int, form: Form) -> Dict:
    arguments = call["function"]["arguments"]
    name = call["function"]["name"]
    spelt = json.dumps(arguments, ensure_ascii=False) if form.text_arguments else arguments
    short = f"call{number:03d}{place:02d}" if form.short_ids else call["id"]
    return {
        "id": f"functions.{name}:{count}" if form.named_ids else short,
        "type": "function",
        "function": {"name": name, "arguments": spelt},
    }


def _last(messages: Sequence[Dict]) -> str:
    return next(
        word for m in reversed(messages) if m["role"] != "assistant" for word in reversed(words(m["content"]))
    )


def _behind(text: str, word: str) -> str:
    return text.rpartition(word)[2]


def _in_order(wanted: Sequence[str], text: str) -> bool:
    """Do the words stand in `text`? Arguments may change places, turns may not lose any."""
    return all(text.count(word) >= list(wanted).count(word) for word in wanted)


def _up_to_stop(text: str, stops: Sequence[str]) -> str | None:
    places = [(text.index(stop), stop) for stop in stops if stop in text]
    return text[: min(places)[0]] + min(places)[1] if places else None


def _agreed(one: str, other: str) -> str:
    length = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
    return min(one, other, key=len) if length is None else one[:length]


def _agreed_end(one: str, other: str) -> str:
    return _agreed(one[::-1], other[::-1])[::-1]


def _without_thoughts(text: str) -> str:
    rest = THOUGHTS.sub("", text, count=1)
    return "".join((re.sub(_OPEN, "", rest) if rest == text else rest).split())
