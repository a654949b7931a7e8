"""Completions for a whole file of conversations, one line out for each one in, and resumable.

    INPUT   any format of data/                                    line n
    OUTPUT  {"origin", "messages": […, the answer], "tools", …}    line n

Lines are appended in INPUT's order as they are done. A run that was stopped goes on behind its last whole line;
lines that answer something else, or were written by another model or sampling, are never added to.
"""

import base64
import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from finetune import log
from finetune.chat.messages import Conversation, Image, Message
from finetune.data.dataset import Sample
from finetune.data.encode import Prompt, prompt_of
from finetune.data.reading.fields import WrongRecordError
from finetune.disk import storage_errors
from finetune.errors import DataError, FolderInUseError, TemplateError
from finetune.infer.engine import Completion, Engine, Sampling

BATCHES_AT_ONCE = 4
"""Batches that are sorted by length together; what a crash loses at most."""

_BEGINNING = b'{"origin": '

Row = dict[str, Any]


def generate_file(
    load: Callable[[], Engine],
    samples: Sequence[Sample],
    output: Path,
    *,
    sampling: Sampling,
    batch_size: int,
    model: str,
) -> int:
    """Answer every conversation of `samples` into `output` (JSON lines); returns how many lines are new.

    A conversation that ends with an answer is answered anew, from before it. `model` names what answers; it is
    loaded when `output` is known to be ours and something is left to do.
    Raises FolderInUseError where `output` is not the beginning of this very work, or another process writes it.
    """
    asked = [_asked(sample) for sample in samples]
    author = {"model": model, "sampling": asdict(sampling)}
    with _opened(output) as file:
        done, size = _whole_lines(file)
        _require_same_work(output, done, asked, author)
        file.truncate(size)
        file.seek(size)
        if done:
            log.info(f"{output}: {len(done)} of {len(asked)} lines are there already; going on behind them")
        if len(done) < len(asked):
            write = partial(_append, file, output, author)
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
            # Another seed for each chunk: one and the same would draw the same luck again and again.
            drawn = replace(sampling, seed=sampling.seed + start)
            rows = _answer(engine, samples[start : start + chunk], drawn, batch_size)
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


def _answer(engine: Engine, samples: Sequence[Sample], sampling: Sampling, batch_size: int) -> list[Row]:
    prompts = [_prompt(engine, sample) for sample in samples]
    completions = engine.generate(prompts, sampling, batch_size)
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
    return {"origin": sample.origin, "messages": messages, **question, "finish": completion.finish}


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


@contextmanager
def _opened(output: Path) -> Iterator[BinaryIO]:
    """The output file, made if need be, for this process alone."""
    if output.is_dir():
        raise FolderInUseError(f"{output}: is a folder; OUTPUT is the file to write")
    if output.exists() and not output.is_file():
        raise FolderInUseError(f"{output}: is no regular file; half-done work could not be found again in it")
    with storage_errors(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(output, os.O_RDWR | os.O_CREAT, 0o644)
    with os.fdopen(descriptor, "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderInUseError(
                f"{output}: another process is writing it; wait for it, or stop it"
            ) from None
        yield file


def _whole_lines(file: BinaryIO) -> tuple[list[Row | None], int]:
    """The rows in `file`, None for a line that is no row, and how many bytes they take.

    What follows the last line end is half a line; one that does not begin like ours is no row either.
    """
    content = file.read()
    size = content.rfind(b"\n") + 1
    rows = [_parse(line) for line in content[:size].splitlines()]
    rest = content[size:]
    ours = rest.startswith(_BEGINNING) or _BEGINNING.startswith(rest)
    return (rows if ours else [*rows, None]), size


def _parse(line: bytes) -> Row | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _require_same_work(
    output: Path, done: Sequence[Row | None], asked: Sequence[Sample], author: Mapping[str, Any]
) -> None:
    advice = "give another OUTPUT, or remove this one"
    if len(done) > len(asked):
        raise FolderInUseError(f"{output}: has {len(done)} lines, INPUT {len(asked)} conversations; {advice}")
    for number, (row, sample) in enumerate(zip(done, asked, strict=False), start=1):
        difference = _difference(row, sample, author)
        if difference:
            raise FolderInUseError(f"{output}:{number}: {difference}; {advice}")


def _difference(row: Row | None, sample: Sample, author: Mapping[str, Any]) -> str | None:
    """What makes a line of OUTPUT foreign to this work; None for one that belongs to it."""
    if row is None or not isinstance(row.get("messages"), list):
        return "not a line that `finetune generate` wrote"
    if row["messages"][:-1] != as_openai(sample.conversation)["messages"]:
        return f"answers another conversation than {sample.origin}"
    if row.get("model") != author["model"]:
        return f"was written by {row.get('model')}, not by {author['model']}"
    if row.get("sampling") != author["sampling"]:
        return "was written with other sampling settings"
    return None


def _append(file: BinaryIO, output: Path, author: Mapping[str, Any], rows: Sequence[Row]) -> None:
    content = "".join(f"{json.dumps({**row, **author}, ensure_ascii=False)}\n" for row in rows).encode()
    with storage_errors(output, needed=len(content)):
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
