"""What the program says while it works: on stderr, on the main process only.

Results belong to stdout and are printed by the command that made them.
"""

import logging
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from finetune import world
from finetune.errors import (
    REPORT,
    FinetuneError,
    InternalError,
    ToldError,
    exit_code_of,
    is_out_of_memory,
)
from finetune.printing import Lines, drawing_on, in_front_of_rich, one_line, printable
from finetune.redaction import redacted

LEVELS = ("debug", "info", "warning", "error", "critical")
_threshold = LEVELS.index("info")
_tracebacks = False


def show_tracebacks() -> None:
    """From now on `failure` shows where in the program an error arose."""
    global _tracebacks
    _tracebacks = True


def shows_tracebacks() -> bool:
    """Whether `show_tracebacks` was called."""
    return _tracebacks


def set_level(level: str) -> None:
    """Say nothing below `level`: one of LEVELS, or transformers' `passive` (info) and `detail` (debug)."""
    global _threshold
    name = {"passive": "info", "detail": "debug"}.get(level, level)
    _threshold = LEVELS.index(name)


# peft loads it wherever it is installed; it tells of kernels it lacks, and of every cast.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def _of_deepspeed(record: logging.LogRecord) -> bool:
    """Keep DeepSpeed's messages off stdout, and below errors only where a run uses it.

    Wherever it is installed, accelerate and peft load it, and its own handler writes to stdout.
    """
    for handler in logging.getLogger("DeepSpeed").handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream is sys.stdout:
            handler.setStream(sys.stderr)
    return record.levelno >= logging.ERROR or "finetune.train.parallel.zero" in sys.modules


logging.getLogger("DeepSpeed").addFilter(_of_deepspeed)


def info(message: str) -> None:
    _write("info", message)


def warning(message: str) -> None:
    _write("warning", f"warning: {message}")


def failure(problem: BaseException) -> None:
    """Say what ended this process: its message, and its traceback where that was asked for or is needed."""
    if isinstance(problem, ToldError | BrokenPipeError | KeyboardInterrupt):
        return
    is_defect = exit_code_of(problem) == InternalError.exit_code
    if _tracebacks or is_defect:
        told = "".join(traceback.format_exception(problem))
        print(printable(redacted(told)), end="", file=sys.stderr, flush=True)
    if not _tracebacks or is_defect:
        who = "" if world.is_main() else f"rank {world.rank()}: "
        print(redacted(f"error: {who}{_what(problem)}"), file=sys.stderr, flush=True)


def _what(problem: BaseException) -> str:
    if isinstance(problem, FinetuneError) and problem.args and isinstance(problem.args[0], Lines):
        return problem.args[0]
    return one_line(_in_words(problem))


def _in_words(problem: BaseException) -> str:
    if isinstance(problem, FinetuneError | OSError):
        return str(problem)
    if is_out_of_memory(problem):
        return f"out of memory ({next(iter(str(problem).strip().splitlines()), type(problem).__name__)})"
    return f"{type(problem).__name__}: {problem}; {REPORT}"


def speaks(level: str) -> bool:
    """Whether a message of this level would be shown, by this process."""
    return world.is_main() and LEVELS.index(level) >= _threshold


def _write(level: str, line: str) -> None:
    if speaks(level):
        safe = line if isinstance(line, Lines) else one_line(line)
        print(redacted(safe), file=sys.stderr, flush=True)


@contextmanager
def progress(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show how far a long piece of work is; yields `advance(n)`.

    A bar on a terminal; elsewhere nothing, so that logs stay short.
    """
    if not (speaks("info") and sys.stderr.isatty()):
        yield lambda n: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(file=drawing_on(sys.stderr)), transient=True) as bar:
        task = bar.add_task(redacted(one_line(what)), total=total)
        with in_front_of_rich():
            yield lambda n: bar.advance(task, n)
