"""A command line of `finetune` in a forked child: everything is imported already, and nothing of it stays."""

import os
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended, and what it said where."""

    code: int
    out: str
    err: str


def finetune(arguments: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Done:
    """Run it in `folder`, on one thread; the child does all that the `finetune` script would do."""
    import torch

    import finetune.train.session  # noqa: F401  imported once, before the forks

    logs = [folder.parent / f"{folder.name}.{name}" for name in ("out", "err")]
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            torch.set_num_threads(1)
            code = _main(arguments, folder, environment, logs)
        finally:  # a child must never go on as a second pytest
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return Done(code, *(log.read_text(encoding="utf-8") for log in logs))


def _main(arguments: Sequence[str], folder: Path, environment: Mapping[str, str], logs: Sequence[Path]) -> int:
    for number, log in enumerate(logs, start=1):
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)
    os.chdir(folder)
    os.environ |= environment
    sys.argv = ["finetune", *arguments]
    from finetune.cli import main

    try:
        main()
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else 0 if left.code is None else 1
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0
