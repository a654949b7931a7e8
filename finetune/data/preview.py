"""What a model is taught, as text a person can check: runs of tokens that are trained, context, or cut off.

Tokens of one kind are decoded together, so that no character falls between two. A control token stands as it
is; one that a person only spelt in a message stands behind a backslash. The tokens of a picture are one run.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np

from finetune.chat.sight import Sight
from finetune.chat.template import ChatTemplate
from finetune.config.schema import Config
from finetune.data.encode import Example, Source, encode
from finetune.data.examples import Examples
from finetune.data.images.picture import Picture
from finetune.data.plan import MicroBatch

Kind = Literal["trained", "context", "cut"]


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring tokens of one kind; `picture`: what they stand for, which `text` then names."""

    kind: Kind
    tokens: int
    text: str
    picture: Picture | None = None

    def as_dict(self) -> dict[str, Any]:
        """A piece of a text, for run.json and HTML."""
        piece: dict[str, Any] = {"text": self.text, "trained": self.kind == "trained"}
        if self.kind == "cut":
            piece["cut"] = True
        if self.picture is not None:
            piece["picture"] = {"path": self.picture.path, "tokens": self.tokens}
        return piece


@dataclass(frozen=True, slots=True)
class View:
    """One example as a person reads it; `note`: what becomes of it."""

    origin: str
    note: str
    runs: tuple[Run, ...]

    def tokens(self, kind: Kind) -> int:
        return sum(run.tokens for run in self.runs if run.kind == kind)

    def as_dict(self, piece: Callable[[Run], dict[str, Any]] = Run.as_dict) -> dict[str, Any]:
        """For run.json and HTML; `piece`: what becomes of a run."""
        return {"origin": self.origin, "pieces": [piece(run) for run in self.runs]}


def preview(examples: Examples, template: ChatTemplate, count: int = 3) -> list[dict[str, Any]]:
    """The first `count` conversations, for run.json."""
    first = range(int(examples.first_example[min(count, examples.conversations)]))
    return [_view(examples.origin_of(i), "trained", examples[i], template).as_dict() for i in first]


def views(origin: str, source: Source, template: ChatTemplate, config: Config) -> list[View]:
    """The examples of a record, whole, with what the limits cut. Raises TemplateError as `encode` does."""
    data, limit = config.data_config, config.max_input_length + config.max_output_length
    whole, fate = encode(source, template, max_length=sys.maxsize, train_on=data.train_on)
    if fate == "no_answer":
        return [View(origin, "left out: no answer to learn", ())]
    if max(len(example.input_ids) for example in whole) <= limit:
        return [_view(origin, "trained", example, template) for example in whole]
    kept, fate = encode(source, template, max_length=limit, train_on=data.train_on, overflow=data.overflow)
    if fate == "trained":  # a document, in pieces
        return [_view(origin, f"piece {n} of {len(kept)}", one, template) for n, one in enumerate(kept, 1)]
    note = f"cut to {limit:,} tokens" if kept else f"left out: longer than {limit:,} tokens"
    return [_view(origin, note, one, template, _kinds_of_kept(one, kept)) for one in whole]


def batch_views(examples: Examples, micro_batch: MicroBatch, template: ChatTemplate) -> Iterator[View]:
    """The examples of a micro-batch, each with the place of its tokens in the row that the model gets."""
    start = 0
    for number, index in enumerate(micro_batch, 1):
        end = start + int(examples.lengths[index])
        note = f"{number} of {len(micro_batch)} in the micro-batch, its tokens {start:,} to {end - 1:,}"
        yield _view(examples.origin_of(index), note, examples[index], template)
        start = end


def _view(
    origin: str, note: str, example: Example, template: ChatTemplate, kinds: Sequence[Kind] | None = None
) -> View:
    kinds, numbers = kinds or _kinds(example), _numbers(example, template.sight)
    runs = []
    for (kind, number), run in groupby(range(len(kinds)), key=lambda at: (kinds[at], numbers.get(at))):
        places = list(run)
        picture = None if number is None else example.pictures[number]
        ids = example.input_ids[places[0] : places[-1] + 1].tolist()
        text = template.visible(ids) if picture is None else _caption(picture, origin, places)
        runs.append(Run(kind, len(places), text, picture))
    return View(origin, note, tuple(runs))


def _numbers(example: Example, sight: Sight | None) -> Mapping[int, int]:
    """Place of each token that stands for a picture -> which of the example's pictures it is."""
    if sight is None or not example.pictures:
        return {}
    places = np.flatnonzero(example.input_ids == sight.token).tolist()
    lengths = [sight.tokens(one.width, one.height) for one in example.pictures]
    return dict(zip(places, np.repeat(np.arange(len(lengths)), lengths).tolist(), strict=True))


def _caption(picture: Picture, origin: str, places: Sequence[int]) -> str:
    """`images/cat.png, 640 x 480: tokens 17 to 40`, counted from 0 as they stand in the example."""
    first, last = f"{places[0]:,}", f"{places[-1]:,}"
    stand = f"token {first}" if first == last else f"tokens {first} to {last}"
    return f"{_name(picture, origin)}, {picture.width} x {picture.height}: {stand}"


def _name(picture: Picture, origin: str) -> str:
    """The path as seen from the folder of the data; of a picture without one, the beginning of its hash."""
    path, folder = Path(picture.path), Path(origin.rpartition(":")[0]).parent.resolve()
    if path.name == picture.sha256:  # in the cache
        return f"image {picture.sha256[:12]}…"
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)


def _kinds(example: Example) -> list[Kind]:
    return ["trained" if learns else "context" for learns in example.loss_mask.tolist()]


def _kinds_of_kept(whole: Example, kept: Sequence[Example]) -> list[Kind]:
    """What becomes of the tokens of an example of which only a beginning and an end were kept.

    A stop token whose turn was cut off is context: it is the marker of the role that speaks next.
    """
    for example in kept:
        # From the end: what is kept there is one piece, and more tokens than those of the head may begin alike.
        end = _agree(whole.input_ids[::-1], example.input_ids[::-1])
        start = min(_agree(whole.input_ids, example.input_ids), len(example.input_ids) - end)
        if start + end == len(example.input_ids):
            kinds, inside = _kinds(example), len(whole.input_ids) - start - end
            cut: list[Kind] = ["cut"] * inside
            return [*kinds[:start], *cut, *kinds[start:]]
    return ["cut"] * len(whole.input_ids)


def _agree(one: np.ndarray, other: np.ndarray) -> int:
    """How many ids both begin with."""
    length = min(len(one), len(other))
    differ = np.flatnonzero(one[:length] != other[:length])
    return int(differ[0]) if len(differ) else length
