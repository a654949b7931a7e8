"""Completions for a whole file of conversations, one line out for each one in, and resumable.

    INPUT   any format of data/                                    line n
    OUTPUT  {"origin", "messages": […, the answer], "tools", …}    line n

Lines are appended in INPUT's order as they are done. A run that was stopped goes on behind its last whole
line, and writes what it would have written at once; lines that answer something else, or were written by
somebody else, are never added to (output.py).
"""

import base64
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from finetune import log
from finetune.chat.messages import Conversation, Image, Message
from finetune.data.dataset import Sample
from finetune.data.encode import Prompt, prompt_of
from finetune.data.images.look import look
from finetune.data.images.wrong import WrongImageError
from finetune.data.reading.fields import WrongRecordError
from finetune.errors import DataError, TemplateError
from finetune.infer.engine import AnswerNumber, Completion, Engine, Sampling
from finetune.infer.output import Row, append, opened, require_same_work, whole_lines

BATCHES_AT_ONCE = 4
"""Batches that are sorted by length together; what a crash loses at most."""


def generate_file(
    load: Callable[[], Engine],
    samples: Sequence[Sample],
    output: Path,
    *,
    sampling: Sampling,
    batch_size: int,
    author: Mapping[str, Any],
) -> int:
    """Answer every conversation of `samples` into `output` (JSON lines); returns how many lines are new.

    A conversation that ends with an answer is answered anew, from before it. `author`: who answers, as
    author.py describes it; `load`ed when `output` is known to be ours and something is left to do.
    Raises FolderInUseError where `output` is not the beginning of this very work, or another process writes it.
    """
    asked = [_asked(sample) for sample in samples]
    author = {**author, "sampling": asdict(sampling)}
    with opened(output) as file:
        done, size = whole_lines(file)
        require_same_work(output, done, (_expected(sample, author) for sample in asked), len(asked))
        file.truncate(size)
        file.seek(size)
        if done:
            log.info(f"{output}: {len(done)} of {len(asked)} lines are there already; going on behind them")
        if len(done) < len(asked):
            write = partial(append, file, output, author)
            _answer_rest(load(), asked, len(done), sampling, batch_size, write)
    return len(asked) - len(done)


def _answer_rest(
    engine: Engine,
    samples: Sequence[Sample],
    done: int,
    sampling: Sampling,
    batch_size: int,
    write: Callable[[list[Row]], None],
) -> None:
    """Answer the samples from number `done` on, a few batches at a time."""
    chunk = batch_size * BATCHES_AT_ONCE
    with log.progress("conversations", len(samples)) as advance:
        advance(done)
        for start in range(done, len(samples), chunk):
            rows = _answer(engine, samples[start : start + chunk], start, sampling, batch_size)
            write(rows)
            advance(len(rows))


def _asked(sample: Sample) -> Sample:
    """The sample without the answer it may end with."""
    messages = sample.conversation.messages
    if messages[-1].role != "assistant":
        return sample
    if len(messages) == 1:
        raise DataError(f"{sample.origin}: nothing but an answer; there is nothing to complete")
    return replace(sample, conversation=sample.conversation.before(len(messages) - 1))


def _answer(
    engine: Engine, samples: Sequence[Sample], first: int, sampling: Sampling, batch_size: int
) -> list[Row]:
    """The lines of the samples, which are number `first` and following in INPUT."""
    prompts = [_prompt(engine, sample) for sample in samples]
    turns = (len(sample.conversation.messages) for sample in samples)
    numbers = [AnswerNumber(*pair) for pair in enumerate(turns, start=first)]
    completions = engine.generate(prompts, sampling, batch_size, numbers)
    return [_row(engine, *answered) for answered in zip(samples, completions, strict=True)]


def _prompt(engine: Engine, sample: Sample) -> Prompt:
    try:
        return prompt_of(engine.template, sample.conversation)
    except TemplateError as error:
        raise TemplateError(f"{sample.origin}: {error}") from error
    except WrongRecordError as wrong:
        raise DataError(f"{sample.origin}: {wrong.code} {wrong.reason}") from None


def _row(engine: Engine, sample: Sample, completion: Completion) -> Row:
    question = as_openai(sample.conversation)
    messages = [*question.pop("messages"), message_as_openai(engine.template.parse(completion.ids))]
    row = {"origin": sample.origin, "messages": messages, **question, "finish": completion.finish}
    return {**row, "asked": _hash_of(sample)}


def _expected(sample: Sample, author: Mapping[str, Any]) -> Row:
    """The line of a sample, but for its answer."""
    return {"origin": sample.origin, **as_openai(sample.conversation), "asked": _hash_of(sample), **author}


def _hash_of(sample: Sample) -> str:
    """Of all that is asked: messages, tools, and what the pictures hold."""
    try:
        pictures = [look(image).sha256 for image in sample.conversation.images]
    except WrongImageError as wrong:
        raise DataError(f"{sample.origin}: {wrong.code} {wrong.reason}") from None
    content = json.dumps([as_openai(sample.conversation), pictures])
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def as_openai(conversation: Conversation) -> dict[str, Any]:
    """A conversation in OpenAI's JSON: `messages`, and `tools` where it has some."""
    value: dict[str, Any] = {"messages": [message_as_openai(message) for message in conversation.messages]}
    if conversation.tools:
        value["tools"] = [{"type": "function", "function": _function(tool)} for tool in conversation.tools]
    return value


def message_as_openai(message: Message) -> dict[str, Any]:
    """A message in OpenAI's JSON; a call's arguments are a string there."""
    content = [_part(part) for part in message.parts()] if message.images else message.content
    value: dict[str, Any] = {"role": message.role, "content": content}
    if message.reasoning is not None:
        value["reasoning_content"] = message.reasoning
    if message.tool_calls:
        value["tool_calls"] = [
            {
                **({"id": call.id} if call.id is not None else {}),
                "type": "function",
                "function": {
                    "name": call.name,
                    "arguments": json.dumps(dict(call.arguments), ensure_ascii=False),
                },
            }
            for call in message.tool_calls
        ]
    return value


def _part(part: str | Image) -> dict[str, Any]:
    """A piece of content; an image by its path, or where it came as bytes, by these."""
    if isinstance(part, str):
        return {"type": "text", "text": part}
    url = part.path or f"data:;base64,{base64.b64encode(part.data or b'').decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def _function(tool: Any) -> dict[str, Any]:
    return {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)}
