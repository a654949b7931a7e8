"""The tokens that a prefix starts as: a text's, the first of the training data, or its most frequent ones.

A model that sees the first token of every text gives it much attention and little meaning (an attention sink,
arXiv:2309.17453), so all of them begin as conversations do: with the control tokens of the template.
"""

from collections.abc import Sequence
from itertools import takewhile
from typing import Literal

import numpy as np

from finetune.chat.template import ChatTemplate
from finetune.data.examples import Examples

_READ = 2_000_000
"""Tokens of the data among which the frequent ones are counted."""


def opening_tokens(
    how: Literal["text", "tokens"], text: str | None, count: int, examples: Examples, template: ChatTemplate
) -> list[int]:
    """`count` token ids; `text` None: what the training data begins with. What is too short is repeated."""
    data = _without_images(examples, template)
    first = _control_tokens_first(data, template)
    if how == "tokens":
        found = [*first, *_by_frequency(data, without=first)]
        return _repeated(found, found, count)
    if text is None:
        return _repeated(data[:count], data[:count], count)
    ids = template.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
    return _repeated([*first, *ids], ids or first, count)


def _without_images(examples: Examples, template: ChatTemplate) -> list[int]:
    """Ids of the data; tokens that stand for pieces of a picture mean nothing without it."""
    ids = examples.input_ids[:_READ]
    return [int(i) for i in (ids if template.sight is None else ids[ids != template.sight.token])]


def _control_tokens_first(ids: Sequence[int], template: ChatTemplate) -> list[int]:
    control = template.tokenizer.added_tokens_decoder
    return list(takewhile(lambda i: i in control, ids))


def _by_frequency(ids: Sequence[int], without: Sequence[int]) -> list[int]:
    """Each id once, the most frequent first, the smaller of two that are equally frequent."""
    found, times = np.unique(np.array(ids), return_counts=True)
    order = np.lexsort((found, -times))
    return [int(i) for i in found[order] if i not in without]


def _repeated(ids: Sequence[int], again: Sequence[int], count: int) -> list[int]:
    """`ids`, then `again` as often as it takes; the first `count` of them."""
    times = max(0, count - len(ids)) // len(again) + 1
    return [*ids, *(list(again) * times)][:count]
