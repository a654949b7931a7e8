"""What holds for every conversation in every family, checked against formats written out by hand."""

import json
import re
from collections import Counter
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import groupby
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune.chat.messages import Conversation, Message, Tool, ToolCall
from finetune.chat.template import ChatTemplate, Rendered
from tests.chat.conftest import FAMILIES
from tests.properties.dialogues import CONTROLS, LOSSY, conversations, marker, settled
from tests.properties.formats import GLM4, NEVER_JOINT, Pieces, call_id, openai_tool, texts
from tests.tiers import NIGHTLY

Spans = list[tuple[str, bool]]  # text, is it trained?


@dataclass(frozen=True)
class Case:
    """One conversation in one family, rendered."""

    family: str
    template: ChatTemplate
    conversation: Conversation
    last_only: bool

    @cached_property
    def trained(self) -> list[int]:
        turns = self.conversation.assistant_turns()
        return [i for i in (turns[-1:] if self.last_only else turns) if self.conversation.messages[i].train]

    @cached_property
    def expected(self) -> list[Pieces]:
        together = texts(self.family, self.conversation, self.trained)
        if len(together) != 1 or not self._history_straddles(together[0]):
            return together
        apart = [one_turn(together[0], turn) for turn in self.trained]
        found = [spelt(self.template, one) for one in self.rendered]
        return apart if found == [spans_of(pieces, self.trained) for pieces in apart] else together

    def _history_straddles(self, pieces: Pieces) -> bool:
        """Whether a prompt in the history has other ids where its turn follows: a token may cover the border.

        An engine encodes a history in one piece, so its ids can be others than those that were written.
        """
        backend = self.template.tokenizer.backend_tokenizer
        for n, (_, turn) in enumerate(pieces):
            if turn is None or turn >= self.trained[-1]:
                continue
            texts = ["".join(text for text, _ in pieces[:end]) for end in (n, n + 1)]
            prompt, through = (backend.encode(text, add_special_tokens=False).ids for text in texts)
            if through[: len(prompt)] != prompt:
                return True
        return False

    @cached_property
    def rendered(self) -> tuple[Rendered, ...]:
        return self.template.render(self.conversation, train_on="last" if self.last_only else "all")

    @cached_property
    def is_plain(self) -> bool:
        """No control token is spelt in it."""
        spelt = [*(control for control in CONTROLS if control != "<0x0A>"), *FAMILIES[self.family].special]
        return not any(control in repr(self.conversation) for control in spelt)


def one_turn(pieces: Pieces, turn: int) -> Pieces:
    """The text up to `turn`, which alone is learnt."""
    end = max(n for n, (_, one) in enumerate(pieces) if one == turn)
    return [(text, turn if one == turn else None) for text, one in pieces[: end + 1]]


def spans_of(pieces: Pieces, trained: list[int]) -> Spans:
    """Neighbours of one kind together, nothing empty, nothing untrained at the end."""
    out: Spans = []
    for text, turn in pieces:
        learnt = turn in trained
        if out and out[-1][1] == learnt and not learnt:
            out[-1] = (out[-1][0] + text, learnt)
        elif text:
            out.append((text, learnt))
    return out[:-1] if out and not out[-1][1] else out


def spelt(template: ChatTemplate, rendered: Rendered) -> Spans:
    """A Rendered as spans of text, control tokens spelt in content as plain as they are."""
    found: Spans = []
    position = 0
    for start, end in rendered.turns:
        assert all(rendered.loss_mask[start:end])
        assert not any(rendered.loss_mask[position:start])
        found += [(decoded(template, rendered.input_ids[position:start]), False)]
        found += [(decoded(template, rendered.input_ids[start:end]), True)]
        position = end
    assert position == len(rendered.input_ids)
    return [span for span in found if span[0]]


def decoded(template: ChatTemplate, ids: list[int]) -> str:
    """The ids' text by the tokenizer alone, behind a letter so that no leading space is dropped."""
    backend = template.tokenizer.backend_tokenizer
    return str(
        backend.decode([*backend.encode("x", add_special_tokens=False).ids, *ids], skip_special_tokens=False)
    )[1:]


def labels_by_characters(
    template: ChatTemplate, pieces: Pieces, trained: list[int]
) -> tuple[list[int], list[bool]] | None:
    """Whole text tokenized once, each token labelled by the characters it covers. None: one covers a border."""
    encoding = template.tokenizer.backend_tokenizer.encode(
        "".join(text for text, _ in pieces), add_special_tokens=False
    )
    turns, at = [], 0
    for text, turn in pieces:
        turns += [] if turn is None else [(at, at + len(text), turn in trained)]
        at += len(text)
    borders = {border for start, end, _ in turns for border in (start, end)}
    if any(start < border < end for border in borders for start, end in encoding.offsets):
        return None
    learnt = [(start, end) for start, end, learns in turns if learns]
    return encoding.ids, [any(a <= start < b for a, b in learnt) for start, _ in encoding.offsets]


def check_text_and_mask(case: Case) -> None:
    found = [spelt(case.template, one) for one in case.rendered]
    expected = [spans_of(pieces, case.trained) for pieces in case.expected]
    if case.family in LOSSY:
        found, expected = ([[s for s in spans if s[1]] for spans in both] for both in (found, expected))
    assert found == expected


def check_ids(case: Case) -> None:
    """Where no control token is spelt in content and none straddles a border, the ids are the whole text's."""
    for one, pieces in zip(case.rendered, case.expected, strict=True):
        ends = max(n for n, (_, turn) in enumerate(pieces) if turn in case.trained)
        if labelled := labels_by_characters(case.template, pieces[: ends + 1], case.trained):
            assert spelling(case.template, one.input_ids, one.loss_mask) == spelling(case.template, *labelled)


def spelling(template: ChatTemplate, ids: list[int], mask: list[bool]) -> object:
    """The ids and mask themselves; of a Unigram tokenizer the text of each run and how likely its pieces are.

    Unigram has equally likely spellings of the same text (a run of spaces), and what stands far away decides
    which of them it takes: neither is the right one.
    """
    scores = unigram_scores(template)
    if scores is None:
        return ids, mask
    runs = [
        (learns, [i for i, _ in run])
        for learns, run in groupby(zip(ids, mask, strict=True), lambda token: token[1])
    ]
    return [(learns, decoded(template, run), round(sum(scores[i] for i in run), 3)) for learns, run in runs]


@cache
def unigram_scores(template: ChatTemplate) -> list[float] | None:
    """The log-probability of every piece; None for other kinds of tokenizers."""
    model = json.loads(template.tokenizer.backend_tokenizer.to_str())["model"]
    return [score for _, score in model["vocab"]] if model["type"] == "Unigram" else None


def check_turns(case: Case) -> None:
    spans = [(one, span) for one in case.rendered for span in one.turns]
    assert len(spans) == len(case.trained)
    for i, (one, (start, end)) in zip(case.trained, spans, strict=True):
        before, written = one.input_ids[:start], one.input_ids[start:end]
        assert case.template.prompt(case.conversation.before(i)) == before
        assert marker(i) not in case.template.tokenizer.decode(before)
        assert written[-1] in case.template.stop_ids
        assert sum(token in case.template.stop_ids for token in written) == 1
        read, meant = case.template.parse(written), settled(case.family, case.conversation.messages[i])
        assert meanings(read) == meanings(meant)
        assert case.template.parse(written[:-1]).role == "assistant"


def meanings(message: Message) -> tuple[str, str | None, list[tuple[str, dict[str, Any]]]]:
    calls = [(call.name, dict(call.arguments)) for call in message.tool_calls]
    return message.content, message.reasoning, calls


def check_no_smuggled_tokens(case: Case) -> None:
    """As many control tokens as the same conversation has with nothing but letters in it."""
    controls = {t for t, a in case.template.tokenizer.added_tokens_decoder.items() if a.special}
    controls -= {case.template.tokenizer.convert_tokens_to_ids("/nothink")}
    bland = Conversation(
        tuple(blanded(settled(case.family, message)) for message in case.conversation.messages),
        tuple(Tool("x", "", {"type": "object"}) for _ in case.conversation.tools),
    )

    def count(renderings: tuple[Rendered, ...]) -> list[list[int]]:
        """Of each trained turn: up to its end, whether or not one text holds them all."""
        return [[i for i in one.input_ids[:end] if i in controls] for one in renderings for _, end in one.turns]

    train_on = "last" if case.last_only else "all"
    assert count(case.rendered) == count(case.template.render(bland, train_on=train_on))


def blanded(message: Message) -> Message:
    thoughts = "x" if message.reasoning else None
    calls = tuple(ToolCall("x", {}) for _ in message.tool_calls)
    return replace(message, content="x" if message.content else "", reasoning=thoughts, tool_calls=calls)


def check_starts(case: Case) -> None:
    """The start of text stands once; Llama 2 begins every question with it."""
    start = case.template.tokenizer.convert_tokens_to_ids("[gMASK]") or case.template.tokenizer.bos_token_id
    for one, pieces in zip(case.rendered, case.expected, strict=True):
        questions = sum(text.startswith("<s>[INST]") for text, _ in pieces)
        assert one.input_ids.count(start) <= (questions if case.family == "llama2" else 1)


# ---------------------------------------------------------------- what transformers makes of it


def check_against_transformers(case: Case) -> None:
    """Prompts, and texts with their turns, are what `apply_chat_template` gives a user for the same dicts."""
    groups, tools = as_users_give_it(case)
    for i in case.trained:
        before = [message for group in groups[:i] for message in group]
        theirs = applied(case, before, tools, add_generation_prompt=True)
        assert case.template.prompt_text(case.conversation.before(i)) == theirs
    if case.family in NEVER_JOINT:
        return
    for one, pieces in zip(case.rendered, case.expected, strict=True):
        last = max(turn for _, turn in pieces if turn in case.trained)
        through = [message for group in groups[: last + 1] for message in group]
        if case.family == "glm4.7" and not settled(case.family, case.conversation.messages[last]).reasoning:
            continue  # the prompt opens thoughts, the text has none: no text of theirs holds both
        theirs = applied(case, through, tools, add_generation_prompt=False)
        ours = "".join(text for text, _ in spans_of(pieces, case.trained))
        if case.template.dialect.closes:
            rest = theirs.removeprefix(ours)
            assert len(ours) + len(rest) == len(theirs), (ours, theirs)
            assert rest.strip() in ("", case.template.tokenizer.eos_token)
        else:
            stop = "<|observation|>" if case.conversation.messages[last].tool_calls else "<|user|>"
            assert ours == theirs + stop
        check_their_ids(case, one, pieces, through, tools)


def check_their_ids(
    case: Case, one: Rendered, pieces: Pieces, through: list[dict[str, Any]], tools: list[dict[str, Any]] | None
) -> None:
    ends = max(n for n, (_, turn) in enumerate(pieces) if turn in case.trained)
    if labels_by_characters(case.template, pieces[: ends + 1], case.trained):
        theirs = applied(case, through, tools, add_generation_prompt=False, tokenize=True, return_dict=False)
        shared = min(len(theirs), len(one.input_ids))
        assert shared >= len(one.input_ids) - 1
        mask = [False] * shared
        ours, theirs = (spelling(case.template, ids[:shared], mask) for ids in (one.input_ids, theirs))
        assert ours == theirs


def applied(case: Case, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None, **how: Any) -> Any:
    template = re.sub(r"strftime_now\([^)]*\)", "'26 Jul 2024'", case.template.source)
    return case.template.tokenizer.apply_chat_template(
        messages, tools=tools, chat_template=template, **{"tokenize": False, **how}
    )


def as_users_give_it(case: Case) -> tuple[list[list[dict[str, Any]]], list[dict[str, Any]] | None]:
    """The dicts of each message, as the family's documentation tells users to write them, and the tools."""
    messages = case.conversation.messages
    tools = [openai_tool(tool) for tool in case.conversation.tools]
    spell = glm4_dicts if case.family in GLM4 | {"glm4.1v"} else openai_dicts
    groups = [spell(case, i) for i in range(len(messages))]
    if case.family == "gemma" and messages[0].role == "system":
        groups[0] = []
        groups[1][0]["content"] = "\n\n".join(filter(None, (messages[0].content, messages[1].content)))
    if case.family != "glm4" or not tools:
        return groups, tools or None
    if groups[0] and groups[0][0]["role"] == "system":
        groups[0][0]["tools"] = tools
    else:
        groups[0].insert(0, {"role": "system", "content": "", "tools": tools})
    return groups, None


def glm4_dicts(case: Case, i: int) -> list[dict[str, Any]]:
    message = settled(case.family, case.conversation.messages[i])
    role = "observation" if message.role == "tool" else message.role
    said = [{"role": role, "content": message.content}] if message.content else []
    return said + [
        {"role": role, "metadata": call.name, "content": json.dumps(call.arguments, ensure_ascii=False)}
        for call in message.tool_calls
    ]


def openai_dicts(case: Case, i: int) -> list[dict[str, Any]]:
    message = case.conversation.messages[i]
    if case.family != "glm4.6":  # its template knows thoughts in the text
        message = settled(case.family, message)
    given: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.reasoning is not None:
        given["reasoning_content"] = message.reasoning
    if message.role == "tool":
        asked = max(k for k in range(i) if case.conversation.messages[k].tool_calls)
        given["tool_call_id"] = call_id(asked, i - asked - 1)
    if message.tool_calls:
        as_text = case.family.startswith("deepseek")
        given["tool_calls"] = [
            {
                "id": call_id(i, place),
                "type": "function",
                "function": {
                    "name": call.name,
                    "arguments": json.dumps(call.arguments, ensure_ascii=False)
                    if as_text
                    else dict(call.arguments),
                },
            }
            for place, call in enumerate(message.tool_calls)
        ]
    return [given]


# ---------------------------------------------------------------- the properties


def check(case: Case) -> None:
    check_text_and_mask(case)
    check_turns(case)
    check_no_smuggled_tokens(case)
    check_starts(case)
    if case.is_plain:
        check_ids(case)
        check_against_transformers(case)


def run(family, name: str, examples: int) -> Counter[str]:
    template = family(name)
    seen: Counter[str] = Counter()

    @settings(max_examples=examples, suppress_health_check=list(HealthCheck))
    @given(conversations(name), st.integers(0, 3))
    def holds(conversation: Conversation, draw: int) -> None:
        case = Case(name, template, conversation, last_only=draw == 0)
        check(case)
        seen.update(dialogues=1, turns=len(case.trained), plain=case.is_plain)

    holds()
    return seen


@pytest.mark.parametrize("name", sorted(FAMILIES))
@pytest.mark.parametrize("examples", [20, pytest.param(500, marks=NIGHTLY)])
def test_every_dialogue_is_trained_exactly_where_the_model_writes(family, examples: int, name: str) -> None:
    assert run(family, name, examples)["plain"] > examples // 20


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_ten_thousand_dialogues_are_trained_exactly_where_the_model_writes(family, name: str) -> None:
    seen = run(family, name, 10_000)
    print(
        f"\n{name}: {seen['dialogues']} dialogues, {seen['turns']} turns, {seen['plain']} against transformers"
    )
