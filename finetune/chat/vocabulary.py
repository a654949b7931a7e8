"""Text to token ids and back, piece by piece, exactly as if each piece followed what stands before it.

A conversation is encoded in pieces that meet where the model starts and stops writing: the ids before such a
border are those an engine would feed, the ids after it those the model would write. A tokenizer treats the
start of a text specially (`▁` before the first word), so a piece is encoded behind an anchor, whose ids are
removed.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from finetune.chat.controls import Controls
from finetune.errors import TemplateError

_PLAIN_ANCHORS = ("\n", "a", "1", "。", "}", "~")
_PREFIX_SPACES = ("▁", "Ġ")

Encode = Callable[[str], list[int]]
Anchor = tuple[str, list[int]]  # a text and its ids


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a rendered text, in which `Controls` has marked what must stay plain.

    `first`: nothing stands before it. `after`: the control token right before it; None: anything else.
    """

    text: str
    first: bool = False
    after: str | None = None


class Vocabulary:
    """The tokenizer as this package uses it; `controls`: the tokens that content may only spell, never be."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, controls: Controls) -> None:
        self._backend = tokenizer.backend_tokenizer
        # A tokenizer.json may carry the padding and truncation of whoever saved it.
        self._backend.no_padding()
        self._backend.no_truncation()
        self.controls = controls
        added: dict[int, AddedToken] = self._backend.get_added_tokens_decoder()
        self._added_ids = frozenset(added)
        self.control_ids = {
            added[i].content: i for i in sorted(added) if added[i].content in set(controls.tokens)
        }
        self._control_texts = {i: text for text, i in self.control_ids.items()}
        neutral = [token.content for token in added.values() if self._is_neutral(token)][:1]
        self._anchors = [(anchor, self.encode(anchor)) for anchor in [*neutral, *_PLAIN_ANCHORS]]
        self._spoken = self._first_spoken()
        self._plain_anchors = [(anchor, self._without_added_tokens(anchor)) for anchor in ("", *_PLAIN_ANCHORS)]

    def encode(self, text: str) -> list[int]:
        """Token ids of text that stands alone; control tokens in it are recognised, none is added."""
        (ids,) = self._encode_batch([text])
        return ids

    def encode_pieces(self, pieces: Sequence[Piece]) -> list[list[int]]:
        """Token ids of many pieces, by one call of the tokenizer as far as the pieces are plain.

        Raises TemplateError where a piece cannot be encoded as what it is.
        """
        anchors = [self._likely_anchor(piece) for piece in pieces]
        texts = [before + piece.text for (before, _), piece in zip(anchors, pieces, strict=True)]
        found = []
        for piece, (_, before), ids in zip(pieces, anchors, self._encode_batch(texts), strict=True):
            agrees = ids[: len(before)] == before and not self.controls.marks(piece.text)
            found.append(ids[len(before) :] if agrees else self.encode_piece(piece))
        return found

    def encode_piece(self, piece: Piece) -> list[int]:
        """Token ids of one piece. Raises TemplateError where it cannot be encoded as what it is."""
        ids: list[int] = []
        for place, text in enumerate(self.controls.pieces(piece.text)):
            if place % 2:
                ids += self._encode_plain(text)
            elif place == 0 and piece.first:
                ids += self.encode(text)
            else:
                ids += _continue(self.encode, text, self._behind(piece) if place == 0 else self._anchors)
        return ids

    def _encode_batch(self, texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._backend.encode_batch_fast(texts, add_special_tokens=False)]

    def _behind(self, piece: Piece) -> Sequence[Anchor]:
        """What a piece may be encoded behind, the likeliest first."""
        return [(piece.after, [self.control_ids[piece.after]])] if piece.after else self._anchors

    def _likely_anchor(self, piece: Piece) -> Anchor:
        return ("", []) if piece.first or not piece.text else self._behind(piece)[0]

    def decode(self, ids: Sequence[int], *, keep_control_tokens: bool = True) -> str:
        """The text of ids that continue something: a leading space stays, control tokens show unless told."""
        if not keep_control_tokens:
            return "".join(self.decode(run) for control, run in self.runs(ids) if control is None)
        anchor, before = self._spoken
        text: str = self._backend.decode([*before, *ids], skip_special_tokens=False)
        return text[len(anchor) :]

    def ends_with(self, ids: Sequence[int], text: str) -> bool:
        """Do the last ids spell `text`, as tokens of its own?"""
        spelt = self.encode_piece(Piece(text))
        return list(ids[-len(spelt) :]) == spelt

    def runs(self, ids: Sequence[int]) -> Iterator[tuple[str | None, list[int]]]:
        """Ids in runs: (control token, [its id]) or (None, ids of ordinary text)."""
        run: list[int] = []
        for i in ids:
            if (control := self._control_texts.get(i)) is None:
                run.append(i)
                continue
            if run:
                yield None, run
            yield control, [i]
            run = []
        if run:
            yield None, run

    def decode_marked(self, ids: Sequence[int]) -> str:
        """Text as a template would have rendered it: control tokens as they are, those in content marked."""
        runs = self.runs(ids)
        return "".join(self.controls.guard(self.decode(run)) if text is None else text for text, run in runs)

    def _first_spoken(self) -> tuple[str, list[int]]:
        """Something to decode behind: decoders take the space off whatever comes first."""
        spoken = [(anchor, ids) for anchor, ids in self._anchors if self._backend.decode(ids) == anchor]
        return spoken[0] if spoken else ("", [])

    def _encode_plain(self, text: str) -> list[int]:
        """Token ids of text as ordinary text, whatever it spells."""
        try:
            ids = _continue(self._without_added_tokens, text, self._plain_anchors, self._starts_with_space)
        except TemplateError:
            ids = []
        if ids and not self._added_ids.intersection(ids):
            return ids
        # The model itself knows this string as one piece (Unigram lists `<s>`): break it.
        if len(text) == 1:
            raise TemplateError(
                f"the tokenizer can write {text!r} only as a control token; remove it from the data"
            )
        return self._encode_plain(text[:1]) + self._encode_plain(text[1:])

    def _without_added_tokens(self, text: str) -> list[int]:
        backend = self._backend
        if backend.normalizer is not None:
            text = backend.normalizer.normalize_str(text)
        words = [text]
        if backend.pre_tokenizer is not None:
            words = [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(text)]
        return [token.id for word in words for token in backend.model.tokenize(word)]

    def _starts_with_space(self, ids: Sequence[int]) -> bool:
        return bool(ids) and str(self._backend.id_to_token(ids[0])).startswith(_PREFIX_SPACES)

    def _is_neutral(self, token: AddedToken) -> bool:
        """Text behind this token is encoded as it would be in the middle of a line."""
        if token.content not in self.control_ids or token.lstrip or token.rstrip or token.single_word:
            return False
        ids = self.encode(token.content + "a")
        return len(ids) > 1 and not self._starts_with_space(ids[1:])


def _continue(
    encode: Encode, text: str, anchors: Sequence[Anchor], spoilt: Callable[[Sequence[int]], bool] | None = None
) -> list[int]:
    """Token ids of `text` as the continuation of the first anchor that does not merge with it."""
    if not text:
        return []
    for anchor, before in anchors:
        ids = encode(anchor + text)
        rest = ids[len(before) :]
        if ids[: len(before)] == before and not (spoilt and spoilt(rest)):
            return rest
    raise TemplateError(f"the tokenizer cannot encode {text[:40]!r} as the continuation of other text")
