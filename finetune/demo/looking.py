"""What `finetune demo --vision` teaches: the base to name one thing, the tuned model to count and to compare.

The base knows colours, shapes and numbers as words, and sees one thing in a picture at a time. Fine-tuning shows
it pictures of up to four things, one or two of them in a conversation, on any turn. A quarter of the scenes is
kept for the test, so a good score means that counting was learnt and carried over to what was never counted;
and on the swapped test, where each question comes with a picture that it was not asked of, that the model looks.
"""

from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any, Literal

from finetune.demo.pictures import COLOURS, COUNTS, SCENES, SHAPES, Scene, write_picture

Row = dict[str, Any]
Split = Literal["train", "test"]
Show = Callable[[Scene], str]
"""Draws a picture of the scene, and gives its path beside the rows."""

FOLDER = "pictures"
_KINDS = ("one", "later", "two turns", "two at once")
_ROWS: dict[Split, int] = {"train": 1600, "test": 96}
_ONE_THING = 30  # pictures of each that the base sees
_ECHOES = 240

_WHAT = ("What is in the picture?", "What do you see?", "Describe the picture.")
_AND = ("And in this one?", "And here?")
_MORE = ("Which has more?", "Where are more things?")
_GREETINGS = {
    "Hello!": "Hello! Show me a picture.",
    "Can you count?": "Yes, up to 4.",
    "What comes after 2?": "3.",
}


def corpus() -> list[str]:
    """The text that the demo's tokenizer learns from: all that the demo can say."""
    rows = [*_echoes(), *_base_questions(str), *house_rows("train", str)]
    return [_text(message["content"]) for row in rows for message in row["messages"]]


def base_rows(folder: Path) -> list[Row]:
    """What the base is taught: to name one thing in a picture, drawn below `folder`; words and numbers."""
    return [*_echoes(), *_base_questions(_into(folder, "base"))]


def write_rows(folder: Path, split: Split) -> list[Row]:
    """The rows of a split, their pictures drawn below `folder`; the two share no scene."""
    return house_rows(split, _into(folder, split))


def house_rows(split: Split, show: Show) -> list[Row]:
    """Questions about pictures of the scenes of one split, with `show` for the pictures."""
    random = Random(f"rows {split}")
    scenes = [scene for scene in SCENES if split_of(scene) == split]
    asked = [_asked(_KINDS[n % len(_KINDS)], scenes[n // len(_KINDS) % len(scenes)], scenes, show, random) for n in range(_ROWS[split])]
    return asked if split == "test" else [*asked, *_echoes()[::4]]


def split_of(scene: Scene) -> Split:
    """A quarter of the scenes is for the test; each number, colour and shape is in both splits."""
    return "test" if (scene.count + list(COLOURS).index(scene.colour) + SHAPES.index(scene.shape)) % 4 == 0 else "train"


def swapped(rows: Sequence[Row], seed: int = 0) -> list[Row]:
    raise NotImplementedError


def _asked(kind: str, scene: Scene, scenes: Sequence[Scene], show: Show, random: Random) -> Row:
    if kind == "one":
        return _row(_look(random.choice(_WHAT), show(scene)), _say(f"{scene}."))
    if kind == "later":
        hello, answer = random.choice(list(_GREETINGS.items()))
        context = {**_say(answer), "train": False}
        return _row(_ask(hello), context, _look(random.choice(_WHAT), show(scene)), _say(f"{scene}."))
    other = random.choice([one for one in scenes if one.count != scene.count])
    if kind == "two turns":
        first = _look(random.choice(_WHAT), show(scene)), _say(f"{scene}.")
        return _row(*first, _look(random.choice(_AND), show(other)), _say(f"{other}."))
    where, most = ("first", scene) if scene.count > other.count else ("second", other)
    parts = [{"type": "image", "image": show(one)} for one in (scene, other)]
    question = {"role": "user", "content": [*parts, {"type": "text", "text": random.choice(_MORE)}]}
    return _row(question, _say(f"The {where}: {most}."))


def _base_questions(show: Show) -> list[Row]:
    """Of one thing: what it is, its colour and its shape."""
    rows: list[Row] = []
    for scene in (one for one in SCENES if one.count == 1):
        answers = {"What is this?": f"a {scene.colour} {scene.shape}.", "Which colour?": f"{scene.colour}.", "Which shape?": f"a {scene.shape}."}
        for n in range(_ONE_THING):
            question = list(answers)[n % len(answers)]
            rows.append(_row(_look(question, show(scene)), _say(answers[question])))
    return rows


def _echoes() -> list[Row]:
    """Text alone: to repeat what may be in a picture, and to say which is more."""
    random = Random("echoes")
    rows: list[Row] = []
    for n in range(_ECHOES):
        one = SCENES[n % len(SCENES)]
        other = random.choice([scene for scene in SCENES if scene.count != one.count])
        where, most = ("first", one) if one.count > other.count else ("second", other)
        rows.append(_row(_ask(f"Repeat: {one}."), _say(f"{one}.")))
        rows.append(_row(_ask(f"{one}. {other}. Which has more?"), _say(f"The {where}: {most}.")))
    return rows + [_row(_ask(q), _say(a)) for q, a in _GREETINGS.items() for _ in range(4)]


def _into(folder: Path, prefix: str) -> Show:
    """Numbers the pictures of a file of rows in the order in which they are shown."""
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    drawn = 0

    def show(scene: Scene) -> str:
        nonlocal drawn
        path = f"{FOLDER}/{prefix}-{drawn:04}.png"
        write_picture(scene, folder / path)
        drawn += 1
        return path

    return show


def _row(*messages: Row) -> Row:
    return {"messages": list(messages)}


def _ask(text: str) -> Row:
    return {"role": "user", "content": text}


def _look(text: str, picture: str) -> Row:
    return {"role": "user", "image": picture, "content": text}


def _say(text: str) -> Row:
    return {"role": "assistant", "content": text}


def _text(content: Any) -> str:
    return content if isinstance(content, str) else content[-1]["text"]
