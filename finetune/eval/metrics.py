"""GLM-4's four scores and the marks of a tool call: pure functions of texts, without torch.

The scores carry upstream's names and are computed as upstream computed them: text stripped, cut by jieba, ROUGE
as F × 100 by `rouge_chinese`'s definition (a set of n-grams; ROUGE-L over all sentences), bleu-4 by nltk's
`sentence_bleu` with smoothing method 3; then the mean over turns.

- **Empty** predictions (or nothing but white space) count 0 in all four; so does any prediction against an
  empty reference, because nothing in it can be right.
- **Scale**: ROUGE runs from 0 to 100 and `bleu-4` from 0 to 1, upstream's scales. `bleu-4` is said on both
  scales wherever a person reads it; only the 0–1 number is called `bleu-4`.
"""

import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from finetune.chat.messages import ToolCall
from finetune.disk import cache_folder

ROUGE = ("rouge-1", "rouge-2", "rouge-l")
BLEU = ("bleu-4",)
KEYS: Mapping[str, tuple[str, ...]] = {"rouge": ROUGE, "bleu": BLEU}
ALL = ("rouge", "bleu")
_TINY = 1e-8


class Cutter(Protocol):
    """The part of `jieba.Tokenizer` that is used here."""

    def lcut(self, sentence: str) -> list[str]: ...


@dataclass(frozen=True, slots=True)
class CallMarks:
    """How much of a tool call is right. `arguments` True: equal as JSON, and the name is right too.

    accepted: whether it is one of the answers that the data accepts; None where the data names none.
    """

    parsed: bool
    name: bool
    arguments: bool
    accepted: bool | None = None

    @property
    def right(self) -> bool:
        """Right by the answers that are accepted, else by being equal to the reference."""
        return self.arguments if self.accepted is None else self.accepted

    def as_dict(self) -> dict[str, bool]:
        marks = {"name": self.name, "arguments": self.arguments, "parsed": self.parsed}
        return marks if self.accepted is None else {**marks, "accepted": self.accepted}


def scores(
    predictions: Sequence[str], references: Sequence[str], metrics: Sequence[str] = ALL
) -> dict[str, float]:
    """The mean of each score over turns, in the order rouge-1, rouge-2, rouge-l, bleu-4; NaN for no turns."""
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions for {len(references)} references")
    return mean([score(p, r, metrics) for p, r in zip(predictions, references, strict=True)], metrics)


def score(prediction: str, reference: str, metrics: Sequence[str] = ALL) -> dict[str, float]:
    """One turn's scores: rouge-1, -2, -l as F × 100 to 4 decimals (as upstream), bleu-4 from 0 to 1."""
    found, wanted = cut(prediction), cut(reference)
    values = dict.fromkeys(_keys(metrics), 0.0)
    if not found or not wanted:
        return values
    if "rouge" in metrics:
        values |= _rouge(found, wanted)
    if "bleu" in metrics:
        values["bleu-4"] = _bleu4(found, wanted)
    return values


def mean(rows: Sequence[Mapping[str, float]], metrics: Sequence[str] = ALL) -> dict[str, float]:
    """The mean over turns of each score; NaN when there are none."""
    keys = _keys(metrics)
    return {key: math.fsum(row[key] for row in rows) / len(rows) if rows else math.nan for key in keys}


def signatures(metrics: Sequence[str] = ALL) -> dict[str, str]:
    """For each score, everything a reader must know before comparing it with a number from elsewhere."""
    common = f"words=jieba-{version('jieba')}|empty=0|mean=turns"
    rouge = f"F x100|{common}|rouge-chinese-{version('rouge-chinese')}"
    bleu = f"sentence, 0-1|smoothing=nltk-method3|{common}|nltk-{version('nltk')}"
    return {key: bleu if key in BLEU else rouge for key in _keys(metrics)}


def cut(text: str) -> list[str]:
    """The text in jieba's words, white space around it removed; [] for an empty text."""
    stripped = text.strip()
    return _cutter().lcut(stripped) if stripped else []


def call_marks(predicted: Sequence[ToolCall], wanted: Sequence[ToolCall]) -> CallMarks:
    """Compare the calls of one turn, in order. `parsed` True: the prediction is a call at all."""
    if [call.name for call in predicted] != [call.name for call in wanted]:
        return CallMarks(parsed=bool(predicted), name=False, arguments=False)
    pairs = zip(predicted, wanted, strict=True)
    equal = all(json_equal(p.arguments, w.arguments) for p, w in pairs)
    return CallMarks(parsed=True, name=True, arguments=equal)


def json_equal(one: Any, other: Any) -> bool:
    """Equality of decoded JSON: key order is free, 1 equals 1.0; `true` is not 1, though Python says so."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(json_equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(json_equal, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and one == other


def lcs_length(one: Sequence[str], other: Sequence[str]) -> int:
    """The length of the longest common subsequence, a row of the table per word held in one integer's bits.

    `rouge_chinese` fills a dictionary of len(one) × len(other) cells: gigabytes for two long answers.
    (Hyyrö, "Bit-parallel LCS-length computation revisited", 2004.)
    """
    places: dict[str, int] = {}
    for i, word in enumerate(one):
        places[word] = places.get(word, 0) | 1 << i
    full = (1 << len(one)) - 1
    row = full
    for word in other:
        hits = row & places.get(word, 0)
        row = (row + hits | row - hits) & full
    return len(one) - row.bit_count()


def _keys(metrics: Sequence[str]) -> list[str]:
    unknown = [name for name in metrics if name not in KEYS]
    if unknown:
        raise ValueError(f"unknown metric {unknown[0]!r}; expected some of {', '.join(KEYS)}")
    return [key for name in ALL if name in metrics for key in KEYS[name]]


def _rouge(found: list[str], wanted: list[str]) -> dict[str, float]:
    """ROUGE's F × 100, over the sentences that `rouge_chinese` makes of the words."""
    from rouge_chinese import Rouge
    from rouge_chinese.rouge_score import rouge_n

    clean = [[" ".join(s.split()) for s in Rouge().cut_sent(" ".join(w)) if s] for w in (found, wanted)]
    flat = [[word for sentence in sentences for word in sentence.split(" ")] for sentences in clean]
    common = lcs_length(*flat)
    values = {f"rouge-{n}": rouge_n(*clean, n)["f"] for n in (1, 2)}
    values["rouge-l"] = _f(common / len(flat[0]), common / len(flat[1]))
    return {key: round(value * 100, 4) for key, value in values.items()}


def _f(precision: float, recall: float) -> float:
    return 2.0 * (precision * recall) / (precision + recall + _TINY)


def _bleu4(found: list[str], wanted: list[str]) -> float:
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    return float(sentence_bleu([wanted], found, smoothing_function=SmoothingFunction().method3))


@cache
def _cutter() -> Cutter:
    """A jieba of our own: words that others add to the shared one must not change our scores.

    Its dictionary cache lies in the user's cache folder under jieba's version: the stock place is a fixed name
    in the world-writable temporary folder, read with `marshal`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import jieba
    jieba.setLogLevel(logging.CRITICAL)
    cutter = jieba.Tokenizer()
    cutter.tmp_dir = str(_cache_folder())
    cutter.cache_file = f"jieba-{version('jieba')}.cache"
    cutter.initialize()
    words: Cutter = cutter
    return words


def _cache_folder() -> Path:
    """Our cache folder; where it cannot be made, jieba goes on without a cache."""
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        logging.getLogger("jieba").debug("no cache folder at %s", folder)
    return folder
