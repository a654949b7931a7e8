"""Each family × column: exact, refused, cannot print, or SILENTLY WRONG."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from finetune.chat.messages import Message
from finetune.chat.script import Transcript
from finetune.chat.template import ChatTemplate, Rendered
from finetune.data.reading.formats import parse_conversation
from finetune.data.reading.records import Record
from finetune.errors import FinetuneError
from tests.chat.real.conversations import TALKS, Talk
from tests.chat.real.families import Pair
from tests.chat.real.fetch import template_file, tokenizer_file
from tests.chat.real.oracle import Oracle, thought_words

EXACT, REFUSED, UNPRINTABLE, WRONG = "exact", "refused", "cannot print", "WRONG"


@dataclass(frozen=True)
class Verdict:
    """What was found for one conversation. `reads`: of how many of its turns `parse` gives the message back."""

    talk: Talk
    kind: str
    why: str = ""
    reads: tuple[bool, ...] = ()


@cache
def _vocabulary(name: str) -> str:
    return tokenizer_file(name).read_text(encoding="utf-8")


def make_tokenizer(pair: Pair, source: str) -> PreTrainedTokenizerFast:
    """The real tokenizer, or where no registry has the family's own, another one that knows its tokens."""
    from tokenizers import Tokenizer

    backend = Tokenizer.from_str(_vocabulary(pair.tokenizer))
    known = {token.content for token in backend.get_added_tokens_decoder().values()}
    fresh = [token for token in pair.markers(source) if token not in known]
    special = [token for token in fresh if not token.startswith(("<think", "</")) or token == "</s>"]
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    backend.add_tokens([AddedToken(t, special=False, normalized=False) for t in fresh if t not in special])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=pair.bos, eos_token=pair.stops[0])


def judge(pair: Pair) -> list[Verdict]:
    """The verdict on every conversation."""
    source = template_file(pair).read_text(encoding="utf-8")
    tokenizer = make_tokenizer(pair, source)
    made = cache(lambda option: _template(tokenizer, source, pair.name, option))
    return [_helped(Oracle(pair, source, tokenizer, talk), made) for talk in TALKS]


def _helped(oracle: Oracle, made: Callable[[str | None], ChatTemplate | FinetuneError]) -> Verdict:
    """The verdict; where a refusal names a setting that helps, what becomes of the conversation with it."""
    verdict = _judge(oracle, made(None))
    named = re.search(r"chat_template_kwargs: \{(\w+): true\}", verdict.why)
    if verdict.kind not in (REFUSED, UNPRINTABLE) or not named:
        return verdict
    again = Oracle(oracle.pair, oracle.source, oracle.tokenizer, oracle.talk, {named[1]: True})
    helped = _judge(again, made(named[1]))
    if helped.kind == REFUSED and "thoughts" not in helped.why:
        return helped  # for another reason
    if helped.kind == REFUSED:
        return replace(helped, kind=WRONG, why=f"{named[1]} is said to help, and: {helped.why}")
    return replace(helped, why=f"with {named[1]}: true") if helped.kind == EXACT else helped


def _template(
    tokenizer: PreTrainedTokenizerFast, source: str, name: str, option: str | None
) -> ChatTemplate | FinetuneError:
    try:
        return ChatTemplate(tokenizer, source, name=name, options={option: True} if option else None)
    except FinetuneError as refusal:
        return refusal


def _judge(oracle: Oracle, template: ChatTemplate | FinetuneError) -> Verdict:
    talk = oracle.talk
    thinks = not any(thought_words(m) for m in talk.messages if m["role"] == "assistant") or oracle.thinks()
    printable = bool(oracle.forms) and thinks
    if isinstance(template, FinetuneError):
        return Verdict(talk, REFUSED if printable else UNPRINTABLE, str(template))
    conversation = parse_conversation(Record(json.loads(json.dumps(talk.record)), talk.name, 1), "messages")
    try:
        transcripts = template.write(conversation)  # type: ignore[arg-type]
        rendered = tuple(template.encode(transcripts))
    except FinetuneError as refusal:
        return Verdict(talk, REFUSED if printable else UNPRINTABLE, str(refusal))
    if not thinks and talk.name == "in the text":
        return Verdict(talk, UNPRINTABLE, "shows thoughts as text")
    if not printable:
        return Verdict(talk, WRONG, "trained, though the template prints not all of it")
    wrong = next(_wrong(oracle, transcripts, rendered), None)
    if wrong:
        return Verdict(talk, WRONG, wrong)
    expected = [template.settled(conversation).messages[i] for i in oracle.turns]  # type: ignore[arg-type]
    return Verdict(talk, EXACT, "", tuple(_reads(template, rendered, expected)))


def _wrong(oracle: Oracle, transcripts: Sequence[Transcript], rendered: Sequence[Rendered]) -> Iterator[str]:
    spans = [(one, start, end) for one in rendered for start, end in one.turns]
    texts = [
        t.text[turn.start : turn.end] for t in transcripts for turn in t.turns if turn.message in t.trained
    ]
    if len(spans) != len(oracle.turns):
        yield f"{len(spans)} turns are trained, not {len(oracle.turns)}"
        return
    for i, (one, start, end), written in zip(oracle.turns, spans, texts, strict=True):
        prompts = {tuple(_ids(oracle.tokenizer, text)): text for text in oracle.prompts(i)}
        prompt = prompts.get(tuple(one.input_ids[:start]))
        if prompt is None:
            shown = oracle.tokenizer.decode(one.input_ids[:start], skip_special_tokens=False)
            same = "ids" if shown in prompts.values() else f"text {shown[-80:]!r}"
            yield f"turn {i}: another prompt than an engine's: {same}"
        elif _bare_text(
            oracle.tokenizer.decode(one.input_ids[start:end], skip_special_tokens=False)
        ) != _bare_text(written):
            yield f"turn {i}: other ids than its text"
        elif wrong := oracle.wrong_turn(i, prompt, written):
            yield f"turn {i}: {wrong}"


def _bare_text(text: str) -> str:
    """Without white space: some tokenizers decode a space behind every control token."""
    return "".join(text.split())


def _ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _reads(template: ChatTemplate, rendered: tuple[Rendered, ...], expected: list[Message]) -> Iterator[bool]:
    spans = [one.input_ids[start:end] for one in rendered for start, end in one.turns]
    for ids, message in zip(spans, expected, strict=True):
        read = template.parse(ids)
        yield (_bare(read) == _bare(message))


def _bare(message: Message) -> tuple[object, ...]:
    calls = [(call.name, dict(call.arguments)) for call in message.tool_calls]
    return (message.content.strip(), calls, (message.reasoning or "").strip())
