"""The conversations that a merged model and its origin are compared on, with pictures if it sees."""

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.chat.messages import Conversation, Image, Message
from finetune.chat.template import ChatTemplate, Rendered
from finetune.data.encode import Prompt, prompt_from
from finetune.data.images.png import png
from finetune.data.reading.fields import WrongRecordError
from finetune.folder import PREDICTIONS_FILE
from finetune.plain_json import parse_json

OWN_ROWS = 4
"""How many of a run's own predictions join the fixed conversations."""
LONGEST = 256
"""Tokens of a text that are read: logits of every position of a large vocabulary fill the memory."""
LONGEST_SEEN = 1024
"""Tokens of a prompt with pictures, which is read whole or not at all."""

_SIZE = (112, 140)  # height and width of the pictures, in pixels: a few dozen tokens

_TALKS = (
    (
        "What is the capital of France, and what is it known for?",
        "The capital of France is Paris. It is known for its museums, its bridges over the Seine, "
        "its bakeries, and a tower of iron built in 1889.",
    ),
    (
        "请用三句话介绍一下长城。",
        "长城是中国古代修建的军事防御工程，东西绵延上万里。它始建于春秋战国时期，今天所见的多为明代所筑。"
        "如今它是世界文化遗产，每年吸引大量游客。",
    ),
    (
        "Write a Python function that adds the squares of a list of numbers.",
        "```python\ndef sum_of_squares(numbers):\n    return sum(number * number for number in numbers)\n```\n"
        "For example, `sum_of_squares([1, 2, 3])` gives 14.",
    ),
    (
        "小明有 23 个苹果，送给同学 7 个，又买了 12 个，现在有多少个？",
        "先算送出以后：23 - 7 = 16（个）。再加上买来的：16 + 12 = 28（个）。所以小明现在有 28 个苹果。",
    ),
    (
        "Answer in JSON: which planets have rings?",
        '{"planets": ["Jupiter", "Saturn", "Uranus", "Neptune"], "brightest": "Saturn"}',
    ),
)


def proof_prompts(template: ChatTemplate, run: Path | None) -> list[Prompt]:
    """A few conversations in the model's format, and a run's own predictions, if any."""
    fixed = [_conversation(Message("user", question), answer) for question, answer in _TALKS]
    if template.dialect.image_token is not None:
        fixed += _views()
    rendered = [template.render(conversation)[-1] for conversation in fixed]
    return [*(_end(prompt_from(one, template.sight)) for one in rendered), *_own_prompts(template, run)]


def _conversation(question: Message, answer: str) -> Conversation:
    return Conversation((question, Message("assistant", answer)))


def _views() -> list[Conversation]:
    """Conversations about pictures: before the text, between two pieces of it, and two of them."""
    gradient, blocks = Image(data=png(_gradient())), Image(data=png(_blocks()))
    asked = (
        (Message("user", "What do you see?", images=(gradient,)), "Colours that run into one another."),
        (
            Message("user", "这幅图里有什么？请简短回答。", images=(Image(data=blocks.data, offset=8),)),
            "几个大小相同的色块，颜色各不相同。",
        ),
        (
            Message("user", "How do these two differ?", images=(blocks, gradient)),
            "The first has sharp edges between blocks of one colour, the second has none.",
        ),
    )
    return [_conversation(*talk) for talk in asked]


def _gradient() -> NDArray[np.uint8]:
    """Red grows to the right, green downwards, and blue falls along the diagonal."""
    height, width = _SIZE
    down, right = np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width), indexing="ij")
    return np.rint(255 * np.stack((right, down, 1 - (right + down) / 2), axis=-1)).astype(np.uint8)


def _blocks() -> NDArray[np.uint8]:
    """Squares of 28 pixels, each of another colour."""
    rows, columns = (side // 28 for side in _SIZE)
    number = np.arange(rows * columns).reshape(rows, columns)
    colours = np.stack((number * 67 % 256, number * 151 % 256, number * 229 % 256), axis=-1)
    return colours.astype(np.uint8).repeat(28, axis=0).repeat(28, axis=1)


def _end(prompt: Prompt) -> Prompt:
    """What is read of a prompt: the end of a text, and all where there are pictures."""
    return prompt if prompt.pictures else Prompt(prompt.ids[-LONGEST:])


def _own_prompts(template: ChatTemplate, run: Path | None) -> Iterator[Prompt]:
    """Prompt and reference of the first rows of predictions.jsonl whose pictures are still there."""
    path = run / PREDICTIONS_FILE if run else None
    if path is None or not path.is_file():
        return
    with path.open(encoding="utf-8") as lines:
        found = (_own_prompt(template, row) for row in map(parse_json, lines))
        yield from islice((prompt for prompt in found if prompt), OWN_ROWS)


def _own_prompt(template: ChatTemplate, row: Mapping[str, Any]) -> Prompt | None:
    """What a row of predictions.jsonl asked and wanted; None where not all of it can be asked again."""
    ids = template.tokenizer.encode(f"{row['prompt']}{row['reference']}", add_special_tokens=False)
    images = tuple(Image(path) for path in row.get("images", ()))
    places = 0 if template.sight is None else ids.count(template.sight.token)
    if not ids or places != len(images):
        return None
    try:
        prompt = prompt_from(Rendered(ids, [False] * len(ids), (), images), template.sight)
    except WrongRecordError:
        return None
    return _end(prompt) if not images or len(prompt) <= LONGEST_SEEN else None
