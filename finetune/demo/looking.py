"""What `finetune demo --vision` teaches: the base to name one thing, the tuned model to count and to compare.

The base knows colours, shapes and numbers as words, and was shown one thing in a picture at a time. Fine-tuning
shows it up to four, in one or two pictures of a conversation, on any turn. Pictures of a quarter of the scenes
are only in the test: a good score means that counting was learnt and carried over to what was never counted. In
the swapped test every question has the pictures of another: what is right there, was written without looking.

    rows of Scenes --drawn--> rows of paths, and PNG files --swapped--> the same rows with each other's paths
"""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any, Literal

from finetune.demo.pictures import COLOURS, SCENES, SHAPES, Scene, write_picture

Row = dict[str, Any]
Split = Literal["train", "test"]
Kind = Literal["one", "later", "two turns", "each", "more"]

FOLDER = "pictures"
QUESTION = "What is in the picture?"
_KINDS: Sequence[Kind] = ("one", "later", "two turns", "each", "more")
_ROUNDS: dict[Split, int] = {"train": 9, "test": 2}  # of every kind of question, about every scene of the split
_VIEWS = 90  # of each thing, that the base sees
_TEXTS = 5  # rounds of rows without pictures

_WHAT = (QUESTION, "What do you see?", "Describe the picture.")
_NEXT = ("And in this one?", "And here?")
_MORE = ("Which has more?", "Where are more things?")
_TALK = {
    "Hello!": "Hello! Show me a picture.",
    "Can you count?": "Yes, up to 4.",
    "What comes after 2?": "3.",
}


def corpus() -> list[str]:
    """The text that the demo's tokenizer learns from: all that the demo can say, as often as it says it."""
    messages = [message for row in [*base_rows(), *house_rows("train")] for message in row["messages"]]
    return [
        one["content"] if isinstance(one["content"], str) else one["content"][-1]["text"] for one in messages
    ]


def base_rows() -> list[Row]:
    """What the base is taught: words and numbers, and to name one thing in a picture."""
    return [*_texts(), *_things()]


def house_rows(split: Split) -> list[Row]:
    """Questions of every kind about the scenes of one split; for training also some without a picture."""
    random = Random(split)
    scenes = [scene for scene in SCENES if split_of(scene) == split]
    rows = [
        _asked(kind, one, scenes, random) for _ in range(_ROUNDS[split]) for kind in _KINDS for one in scenes
    ]
    return [*rows, *_texts()[::_TEXTS]] if split == "train" else rows


def split_of(scene: Scene) -> Split:
    """A quarter of the scenes is for the test, among them every number, colour and shape equally often."""
    place = scene.count + list(COLOURS).index(scene.colour) + SHAPES.index(scene.shape)
    return "test" if place % 4 == 0 else "train"


def drawn(rows: Sequence[Row], folder: Path, name: str) -> list[Row]:
    """The rows with paths for scenes, and the pictures at those paths below `folder`; `name`: their own."""
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    paths = (f"{FOLDER}/{name}-{number:04}.png" for number in range(10_000))

    def draw(scene: Scene) -> str:
        path = next(paths)
        write_picture(scene, folder / path)
        return path

    return [_with_pictures(row, draw) for row in rows]


def swapped(rows: Sequence[Row]) -> list[Row]:
    """The same questions and answers, each with the pictures of the next row whose answers are all others."""
    return [_with_those_of(row, _stranger(rows, n)) for n, row in enumerate(rows)]


def pictures_of(row: Row) -> list[Any]:
    """What stands for pictures in a row, in the order in which they are shown."""
    shown: list[Any] = []
    _with_pictures(row, shown.append)
    return shown


def answers_of(row: Row) -> list[str]:
    """What a model is to write in a row."""
    return [one["content"] for one in row["messages"] if one["role"] == "assistant" and one.get("train", True)]


def share_right(predictions: Path) -> float:
    """How many of the answers in a `predictions.jsonl` are the reference to the letter, from 0 to 1."""
    rows = [json.loads(line) for line in predictions.read_text(encoding="utf-8").splitlines()]
    return sum(row["prediction"] == row["reference"] for row in rows) / len(rows)


def _with_those_of(row: Row, other: Row) -> Row:
    pictures = iter(pictures_of(other))
    return _with_pictures(row, lambda _: next(pictures))


def _stranger(rows: Sequence[Row], n: int) -> Row:
    def fits(other: Row) -> bool:
        pairs = zip(answers_of(rows[n]), answers_of(other), strict=True)
        return _places(other) == _places(rows[n]) and all(one != another for one, another in pairs)

    return next(other for other in (*rows[n + 1 :], *rows[:n]) if fits(other))


def _places(row: Row) -> list[int]:
    return [len(pictures_of({"messages": [message]})) for message in row["messages"]]


def _with_pictures(row: Row, change: Callable[[Any], Any]) -> Row:
    """The row with something else for each of its pictures, asked for in their order."""

    def changed(one: Row) -> Row:
        if "image" in one:
            return {**one, "image": change(one["image"])}
        return {**one, "content": [changed(part) for part in one["content"]]} if _in_parts(one) else one

    return {"messages": [changed(message) for message in row["messages"]]}


def _in_parts(message: Row) -> bool:
    return isinstance(message.get("content"), list)


def _asked(kind: Kind, scene: Scene, scenes: Sequence[Scene], random: Random) -> Row:
    """A question about `scene`; with two pictures also about another of `scenes`, of more or fewer things."""
    other = random.choice([one for one in scenes if one.count != scene.count])
    look = _look(random.choice(_WHAT), scene)
    match kind:
        case "one":
            return _row(look, f"{scene}.")
        case "later":
            hello, answer = random.choice(list(_TALK.items()))
            talk = [
                _ask(hello),
                {**_say(answer), "train": False},
            ]  # no question of the test: it needs no looking
            return {"messages": [*talk, look, _say(f"{scene}.")]}
        case "two turns":
            return _row(look, f"{scene}.", _look(random.choice(_NEXT), other), f"{other}.")
        case "each":
            return _row(_look("What is in each?", scene, other), f"{scene}, then {other}.")
        case "more":
            return _row(_look(random.choice(_MORE), scene, other), _more(scene, other))


def _things() -> Iterator[Row]:
    """One thing in a picture: what it is, its colour, its shape."""
    for thing in (scene for scene in SCENES if scene.count == 1):
        answers = {
            "What is this?": f"a {thing.colour} {thing.shape}.",
            "Which colour?": f"{thing.colour}.",
            "Which shape?": f"a {thing.shape}.",
        }
        for _ in range(_VIEWS // len(answers)):
            yield from (_row(_look(question, thing), answer) for question, answer in answers.items())


def _texts() -> list[Row]:
    """No picture: to repeat what may be in one, and to say which of two is more."""
    random = Random("texts")
    rows = [_row(_ask(question), answer) for question, answer in _TALK.items() for _ in range(_TEXTS)]
    for scene in [*SCENES] * _TEXTS:
        other = random.choice([one for one in SCENES if one.count != scene.count])
        rows.append(_row(_ask(f"Repeat: {scene}."), f"{scene}."))
        rows.append(_row(_ask(f"{scene}, then {other}. {random.choice(_MORE)}"), _more(scene, other)))
    return rows


def _more(first: Scene, second: Scene) -> str:
    return f"The first: {first}." if first.count > second.count else f"The second: {second}."


def _row(*turns: Row | str) -> Row:
    """What the user says, and in between what the assistant answers."""
    return {"messages": [_say(turn) if isinstance(turn, str) else turn for turn in turns]}


def _ask(text: str) -> Row:
    return {"role": "user", "content": text}


def _say(text: str) -> Row:
    return {"role": "assistant", "content": text}


def _look(text: str, *pictures: Scene) -> Row:
    """One picture as GLM-4 has it, beside the text; two as parts before it."""
    if len(pictures) == 1:
        return {"role": "user", "image": pictures[0], "content": text}
    parts = [{"type": "image", "image": picture} for picture in pictures]
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}
