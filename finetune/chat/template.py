"""A checkpoint's chat template and tokenizer as one thing: conversations to token ids, ids back to messages.

The same object renders training examples and prompts, so the two cannot drift apart. What is trained is what a
model writes: everything between a generation prompt and the stop token, the stop token included.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedTokenizerFast

from finetune import log
from finetune.chat.assistant_first import leading_turns, told_plainly
from finetune.chat.call_format import learn_calls
from finetune.chat.call_probes import reads_back
from finetune.chat.calls import CallReader
from finetune.chat.controls import Controls
from finetune.chat.dialects import choose_spelling
from finetune.chat.habits import FRAME_TOKENS, Habits, observe
from finetune.chat.jinja import JinjaTemplate, with_defaults
from finetune.chat.messages import Conversation, Image, Message, Tool
from finetune.chat.reading import read_turn, without_thoughts
from finetune.chat.saving import save_processor, save_tokenizer
from finetune.chat.script import Script, Transcript
from finetune.chat.sight import Sight
from finetune.chat.thoughts import Thinking, settle_thoughts, thoughtless
from finetune.chat.vocabulary import Piece, Vocabulary
from finetune.errors import ConfigError, TemplateError

TrainOn = Literal["all", "last", "everything"]
_MARKER = re.compile(r"<[|｜].*[|｜]>")
_SWITCH = re.compile(r"/\w+")  # `/nothink`: a token, but one that people are meant to type


@dataclass(frozen=True, slots=True)
class Rendered:
    """Token ids of (part of) a conversation. `loss_mask` True: the model must learn to write this token.

    `turns`: half-open token spans of the trained turns, in order. `images`: for each of them stands one token
    (`Sight.token`), whatever its size.
    """

    input_ids: list[int]
    loss_mask: list[bool]
    turns: tuple[tuple[int, int], ...]
    images: tuple[Image, ...] = ()


class ChatTemplate:
    """Render, prompt and parse. `source` is the Jinja text, `name` the file it came from (for messages).

    `folder`: where the tokenizer was loaded from, if anywhere. `options`: values for the Jinja's own variables,
    such as `enable_thinking`; they become part of `source`. `thinking`: what becomes of thoughts in data.
    `sight`: how the model takes images; None: it sees none. `text_tokens`: control tokens that texts may write.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        source: str,
        *,
        name: str = "chat template",
        folder: Path | None = None,
        options: Mapping[str, Any] | None = None,
        thinking: Thinking = "train",
        sight: Sight | None = None,
        text_tokens: Sequence[str] = (),
    ) -> None:
        self.tokenizer = tokenizer
        self.text_tokens = tuple(text_tokens)
        self.source = source = with_defaults(source, options or {}, name=name)
        self.thinking: Thinking = thinking
        self.sight = sight
        self._told: set[str] = set()
        self._folder = folder
        image_token = None if sight is None else str(tokenizer.convert_ids_to_tokens(sight.token))
        controls = [*_control_tokens(tokenizer, source), image_token or ""]
        self._controls = Controls(token for token in controls if token not in self.text_tokens)
        self._vocabulary = Vocabulary(tokenizer, self._controls)
        self._jinja = JinjaTemplate(source, name=name, variables=tokenizer.special_tokens_map)
        self._refuse_tokens_of_its_own()
        spelling = choose_spelling(source, self._controls.tokens)
        self.dialect: Habits = observe(
            self._jinja.render,
            self._controls,
            spelling,
            tokenizer.eos_token,
            name=name,
            image_token=image_token,
        )
        self.stop_ids: tuple[int, ...] = self._stop_ids()
        self.dialect = replace(self.dialect, read_calls=self._reader_of_calls())
        self.pad_id: int = self.stop_ids[-1] if tokenizer.pad_token_id is None else tokenizer.pad_token_id

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of what encoded data depends on: the template, its variables and the tokenizer."""
        parts = [
            self.source,
            self.thinking,
            repr(sorted(self._jinja.variables.items())),
            self.tokenizer.backend_tokenizer.to_str(),
            repr(self.sight),
            *self.text_tokens,
        ]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def render(self, conversation: Conversation, *, train_on: TrainOn = "all") -> tuple[Rendered, ...]:
        """Token ids and loss mask; nothing where no turn is to be trained. Many at once: `write`, `encode`."""
        return tuple(self.encode(self.write(conversation, train_on=train_on)))

    def write(self, conversation: Conversation, *, train_on: TrainOn = "all") -> tuple[Transcript, ...]:
        """The texts of a conversation: one as a rule; one per trained turn where a single text cannot hold all
        of them as they are written (the template drops old thoughts; a turn is not followed by its own stop; an
        engine would encode the history otherwise).

        `everything`: prompts are learnt, too, up to the last trained turn. Raises TemplateError where that
        takes several texts.
        """
        try:
            return self._write(conversation, train_on)
        except TemplateError as error:
            raise told_plainly(error, conversation, lambda cured: self._write(cured, train_on)) from None

    def _write(self, conversation: Conversation, train_on: TrainOn) -> tuple[Transcript, ...]:
        turns = conversation.assistant_turns()
        trained = [i for i in (turns[-1:] if train_on == "last" else turns) if conversation.messages[i].train]
        if not trained:
            return ()
        script = self._script(conversation)
        # What the assistant says first and does not learn needs no prompt of its own.
        opening = set(leading_turns(conversation)).difference(trained)
        followed = script.follow(
            [i for i in turns if i <= trained[-1] and i not in opening], frozenset(trained)
        )
        if train_on == "everything":
            return (replace(_in_one_text(followed), everything=True),)
        if followed is None or not self._is_fed_alike(followed):
            return tuple(script.alone(i) for i in trained)
        return (followed,)

    def _is_fed_alike(self, transcript: Transcript) -> bool:
        """Has an engine, which encodes a prompt in one piece, the same ids for the turns before the last?

        A generation prompt's last line break and an answer's first may be one token.
        """
        pieces: list[Piece] = []
        after = None
        position = 0
        for turn in transcript.turns[:-1]:
            opening = self._controls.behind_last(transcript.text[position : turn.start])
            written = transcript.text[turn.start : turn.end]
            pieces += [Piece(opening[1], False, opening[0] or after), Piece(written)]
            pieces += [Piece(opening[1] + written, False, opening[0] or after)]
            position, after = turn.end, turn.stop
        ids = self._vocabulary.encode_pieces(pieces)
        return all(ids[n] + ids[n + 1] == ids[n + 2] for n in range(0, len(ids), 3))

    def encode(self, transcripts: Sequence[Transcript]) -> list[Rendered]:
        """Token ids and loss mask of each text, all of them by one call of the tokenizer."""
        pieces = [list(_pieces(transcript)) for transcript in transcripts]
        ids = iter(self._vocabulary.encode_pieces([piece for text in pieces for piece in text]))
        return [
            _rendered(transcript, [next(ids) for _ in text])
            for transcript, text in zip(transcripts, pieces, strict=True)
        ]

    def prompt(self, conversation: Conversation) -> list[int]:
        """Token ids up to and including the generation prompt: what `render` gives before the next turn."""
        return self.rendered_prompt(conversation).input_ids

    def rendered_prompt(self, conversation: Conversation) -> Rendered:
        """The prompt with the images that it has; nothing in it is learnt."""
        script = self._script(conversation)
        (rendered,) = self.encode([script.prompt(len(script.messages))])
        return rendered

    def prompt_text(self, conversation: Conversation) -> str:
        """The text of `prompt`, as the template renders it."""
        script = self._script(conversation)
        return self._controls.reveal(script.text(len(script.messages), prompt=True))

    def settled(self, conversation: Conversation) -> Conversation:
        """The conversation as it is rendered: thoughts in their own field, or left out as `thinking` wants."""
        return settle_thoughts(conversation, self.dialect, self.thinking)

    def parse(self, ids: Sequence[int]) -> Message:
        """The assistant's message that a model wrote: the inverse of a trained turn. Never raises.

        A trailing stop token is taken off; where calls and answers end in different ones, it tells which it is.
        """
        body, stopped_by = self._without_stop(ids)
        return read_turn(self._vocabulary.decode_marked(body), stopped_by, self.dialect, self._controls)

    def spelt_in(self, text: str) -> list[str]:
        """The control tokens that a text only spells, each as often as it stands there."""
        return self._controls.all_in(text)

    def document_ids(self, text: str) -> list[int]:
        """Token ids of a document, in which `text_tokens` are the tokens and control tokens plain text."""
        return self._vocabulary.encode_piece(Piece(self._controls.guard(text), first=True))

    def text(self, ids: Sequence[int]) -> str:
        """Text without control tokens; a character cut off at the end is left out."""
        text = self._vocabulary.decode(ids, keep_control_tokens=False)
        cut = text.endswith("\ufffd") and not self._vocabulary.ends_with(ids, "\ufffd")
        return text.rstrip("\ufffd") if cut else text

    def marked(self, rendered: Rendered) -> str:
        """For people: trained text in ⟦ ⟧, control tokens visible, those spelt in content behind a `\\`."""
        pieces, position = [], 0
        for start, end in rendered.turns:
            pieces += [self.visible(rendered.input_ids[position:start])]
            pieces += ["⟦", self.visible(rendered.input_ids[start:end]), "⟧"]
            position = end
        return "".join([*pieces, self.visible(rendered.input_ids[position:])])

    def visible(self, ids: Sequence[int]) -> str:
        """For people: text with control tokens visible, and those only spelt in content behind a `\\`."""
        pieces = self._controls.pieces(self._vocabulary.decode_marked(ids))
        return "".join("\\" + piece if place % 2 else piece for place, piece in enumerate(pieces))

    def save(self, folder: Path) -> None:
        """Write tokenizer, chat template and image processor so that transformers' Auto classes load them."""
        save_tokenizer(self.tokenizer, self.source, self._folder, folder, self.text_tokens)
        if self.sight is not None:
            save_processor(self.sight, folder)

    @property
    def reads_calls(self) -> bool:
        """Whether `parse` finds tool calls in what a model writes; else they are text to it."""
        return self.dialect.read_calls is not None

    def _reader_of_calls(self) -> CallReader | None:
        """What reads every call back that this template trains; None where nothing does."""
        reader = self.dialect.read_calls
        if self.dialect.call_end is None or (reader and reads_back(reader, self._called)):
            return reader
        return learn_calls(self._called)

    def _called(self, message: Message) -> str | None:
        """The text of a trained turn of calls, as `parse` has it behind thoughts; None: it is refused."""
        tools = (Tool("f", "does it", {"type": "object", "properties": {"x": {"type": "string"}}}),)
        asked = Conversation((Message("user", "q"), message), tools if self.dialect.needs_tools else ())
        try:
            text, _ = Script(asked, self._jinja, self.dialect, self._controls).written(1)
        except TemplateError:
            return None
        stops = [self._vocabulary.decode([stop]) for stop in self.stop_ids]
        while stop := next((stop for stop in stops if text.endswith(stop)), None):
            text = text.removesuffix(stop)
        return without_thoughts(text, self.dialect)[1]

    def _script(self, conversation: Conversation) -> Script:
        self.notice(conversation)
        without_empty = thoughtless(conversation) if self.thinking == "skip-empty" else frozenset()
        settled = self.settled(conversation)
        return Script(settled, self._jinja, self.dialect, self._controls, without_empty)

    def notice(self, conversation: Conversation) -> None:
        """Say once that a system text moves, and that calls cannot be read back."""
        messages = conversation.messages
        if not self.dialect.wishes.system_role and any(m.role == "system" and m.content for m in messages):
            self._tell("the chat template has no system role: a system text opens the user message after it")
        if not self.reads_calls and (conversation.tools or any(m.tool_calls for m in messages)):
            self._tell(
                "tool calls as this chat template spells them cannot be read back: what a model writes stays "
                "text, and eval gives them no score"
            )

    def _tell(self, what: str) -> None:
        if what not in self._told:
            self._told.add(what)
            log.info(what)

    def _refuse_tokens_of_its_own(self) -> None:
        """Refuse `text_tokens` that the template or the tokenizer itself writes, or that are no tokens."""
        if not self.text_tokens:
            return
        tokenizer = self.tokenizer
        known = {token.content for token in tokenizer.backend_tokenizer.get_added_tokens_decoder().values()}
        own = {tokenizer.eos_token, tokenizer.bos_token, tokenizer.pad_token, tokenizer.unk_token}
        printed = "".join(
            self._printed(role) for role in ("system", "user", "assistant", "tool", "observation")
        )
        for token in self.text_tokens:
            if token not in known:
                what = "is no token that was added to the tokenizer; add it to the base model's first"
            elif token in own or token in printed or token in self.source:
                what = "belongs to the chat template; in a text it would end or begin a turn"
            else:
                continue
            raise ConfigError(f"data_config.special_tokens_in_text: {token!r} {what}")

    def _printed(self, role: str) -> str:
        try:
            return self._jinja.render([{"role": role, "content": "x"}], None, True)
        except TemplateError:
            return ""

    def _stop_ids(self) -> tuple[int, ...]:
        habits = self.dialect
        ends = [habits.answer_end, habits.bare_end, habits.call_end or "", self.tokenizer.eos_token or ""]
        ids = self._vocabulary.control_ids
        return tuple(dict.fromkeys(ids[stop] for end in ends if (stop := self._controls.last(end))))

    def _without_stop(self, ids: Sequence[int]) -> tuple[Sequence[int], str | None]:
        """The ids before the stop token, and that token where it tells calls from answers."""
        end = len(ids)
        while end and (ids[end - 1] in self.stop_ids or ids[end - 1] == self.pad_id):
            end -= 1
        call_end = self.dialect.call_end
        if end == len(ids) or call_end in (None, self.dialect.answer_end):
            return ids[:end], None
        return ids[:end], self._vocabulary.decode([ids[end]])


def _in_one_text(followed: Transcript | None) -> Transcript:
    if followed is None:
        what = "the chat template changes earlier turns, so that no single text holds all of them as written"
        raise TemplateError(f"{what}: prompts cannot be learnt exactly; set data_config.train_on: all")
    return followed


def _pieces(transcript: Transcript) -> Iterator[Piece]:
    """Text between turns and the turns, in order: turns and what stands between them share no token."""
    position, after = 0, None
    for turn in transcript.turns:
        yield Piece(transcript.text[position : turn.start], position == 0, after)
        yield Piece(transcript.text[turn.start : turn.end])
        position, after = turn.end, turn.stop
    yield Piece(transcript.text[position:], position == 0, after)


def _rendered(transcript: Transcript, pieces: Sequence[list[int]]) -> Rendered:
    """The ids of a transcript's pieces put together; every other piece is a turn."""
    ids: list[int] = []
    mask: list[bool] = []
    spans: list[tuple[int, int]] = []
    for place, piece in enumerate(pieces):
        is_turn = place % 2 == 1
        learns = transcript.everything
        if is_turn and (learns := transcript.turns[place // 2].message in transcript.trained):
            spans.append((len(ids), len(ids) + len(piece)))
        ids += piece
        mask += [learns] * len(piece)
    return Rendered(ids, mask, tuple(spans), transcript.images)


def _control_tokens(tokenizer: PreTrainedTokenizerFast, source: str) -> list[str]:
    """The tokens that only a template may write: special ones, markers, and others that this template names.

    Other added tokens (words of a domain, runs of spaces) are ordinary text.
    """
    added = list(tokenizer.backend_tokenizer.get_added_tokens_decoder().values())
    has_frame = {token.content for token in added}.issuperset(FRAME_TOKENS)
    named = {str(token) for token in tokenizer.all_special_tokens}
    return [
        token.content
        for token in added
        if not _SWITCH.fullmatch(token.content)
        and (
            token.special
            or token.content in named
            or _is_marker(token.content, source)
            or (has_frame and token.content in FRAME_TOKENS)
        )
    ]


def _is_marker(token: str, source: str) -> bool:
    return _MARKER.fullmatch(token) is not None or (bool(token.strip()) and token in source)
