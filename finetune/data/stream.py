"""Encoding many conversations, in order, on several cores.

One process: this thread renders texts (Python), another has the tokenizer work on the texts before them (Rust,
without Python's lock). Several: every worker renders and tokenizes batches of its own; this process reads, and
puts what they made in order. What comes out is the same.

    conversations → batches of 64 → workers → examples, in the order of the conversations
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

from finetune import log
from finetune.chat.messages import Conversation
from finetune.data.encode import Encoder, Outcome, Source
from finetune.errors import RankFailedError

Item = TypeVar("Item")
Submit = Callable[[Sequence[Source]], "Future[list[Outcome]]"]

_AT_ONCE = 64  # conversations of a batch
_WAITING = 2  # batches on their way, for each worker


def encoded(
    encoder: Encoder, sources: Iterable[tuple[Item, Source]], *, processes: int = 1
) -> Iterator[tuple[Item, Source, Outcome]]:
    """Every item and its conversation as they come, each with what became of it."""
    workers = max(1, min(processes, len(os.sched_getaffinity(0)))) if sys.platform == "linux" else 1
    pending: deque[tuple[list[tuple[Item, Source]], Future[list[Outcome]]]] = deque()
    with _losses_told(), _submitting(encoder, workers) as submit:
        for batch in _batches(iter(sources)):
            if workers > 1:  # they say nothing
                _notice(encoder, batch)
            pending.append((batch, submit([source for _, source in batch])))
            if len(pending) > _WAITING * workers:
                yield from _finished(*pending.popleft())
        while pending:
            yield from _finished(*pending.popleft())


def _batches(items: Iterator[Item]) -> Iterator[list[Item]]:
    while batch := list(islice(items, _AT_ONCE)):
        yield batch


def _notice(encoder: Encoder, batch: Sequence[tuple[Item, Source]]) -> None:
    for _, source in batch:
        if isinstance(source, Conversation):
            encoder.template.notice(source)


def _finished(
    batch: Sequence[tuple[Item, Source]], made: "Future[list[Outcome]]"
) -> Iterator[tuple[Item, Source, Outcome]]:
    outcomes = made.result()
    return ((item, source, outcome) for (item, source), outcome in zip(batch, outcomes, strict=True))


@contextmanager
def _losses_told() -> Iterator[None]:
    try:
        yield
    except BrokenProcessPool:
        reason = "a process that encodes data was killed (out of memory?); set data_config.num_proc: 1"
        raise RankFailedError(reason) from None


@contextmanager
def _submitting(encoder: Encoder, workers: int) -> Iterator[Submit]:
    if workers == 1:
        with ThreadPoolExecutor(1) as thread:
            yield lambda sources: thread.submit(encoder.finish, sources, encoder.write(sources))
        return
    # Forked, so that the tokenizer is there at once; a worker uses neither torch nor its parent's threads.
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(workers, context, _begin, (encoder,)) as pool:
        yield lambda sources: pool.submit(_encode, sources)


_encoder: Encoder
"""Of a worker process."""


def _begin(encoder: Encoder) -> None:
    """What a worker does first: it leaves signals and the last word to its parent, and dies with it."""
    global _encoder
    _encoder = encoder
    log.set_level("critical")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the threads of its parent were not forked
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _encode(sources: Sequence[Source]) -> list[Outcome]:
    return _encoder.encode(sources)
