"""Several processes that train together, forked from this one: torch and DeepSpeed are imported once.

Children use one thread: one that computes on two hangs where its parent has done so before.
"""

import os
import pickle
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune import log
from finetune.errors import FinetuneError


@dataclass(frozen=True)
class Ended:
    """How one process ended: its exit code (negative: the signal), what it returned, what it said."""

    code: int
    result: Any
    said: str


class Ranks:
    """`count` processes that run `work`; use as a context, so that none is left behind."""

    def __init__(
        self, work: Callable[[], Any], count: int = 2, environment: Mapping[str, str] | None = None
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="finetune-ranks-"))
        sys.stdout.flush()
        port = free_port()
        for rank in range(count):
            (self.folder / f"{rank}.log").touch()
        for rank in range(count):
            (self.folder / f"{rank}.log").touch()
        self.pids = [self._fork(work, rank, count, port, environment or {}) for rank in range(count)]
        self._codes: dict[int, int] = {}

    def __enter__(self) -> "Ranks":
        return self

    def __exit__(self, *_: object) -> None:
        for rank in range(len(self.pids)):
            if rank not in self._codes:
                os.kill(self.pids[rank], signal.SIGKILL)
                self._wait(rank, 10)
        shutil.rmtree(self.folder)

    def kill(self, rank: int, number: int = signal.SIGKILL) -> None:
        os.kill(self.pids[rank], number)

    def join_like_a_launcher(self, grace: float = 3) -> list[Ended]:
        """Wait for all; when one has failed, kill after `grace` seconds what has not noticed."""
        while not (codes := self.ended()):
            time.sleep(0.005)
        end = time.monotonic() + (grace if any(codes) else 60)
        while len(self.ended()) < len(self.pids) and time.monotonic() < end:
            time.sleep(0.005)
        for rank in range(len(self.pids)):
            if rank not in self._codes:
                self.kill(rank)
        return self.join(10)

    def ended(self) -> list[int]:
        """Exit codes of those that have ended."""
        for rank in range(len(self.pids)):
            try:
                self._wait(rank, 0)
            except TimeoutError:
                continue
        return list(self._codes.values())

    def join(self, seconds: float = 120) -> list[Ended]:
        """Wait for all. Raises TimeoutError where one does not end."""
        end = time.monotonic() + seconds
        codes = [self._wait(rank, end - time.monotonic()) for rank in range(len(self.pids))]
        return [Ended(code, self._result(rank), self.said(rank)) for rank, code in enumerate(codes)]

    def said(self, rank: int) -> str:
        return (self.folder / f"{rank}.log").read_text(errors="replace")

    def _wait(self, rank: int, seconds: float) -> int:
        end = time.monotonic() + seconds
        while rank not in self._codes:
            pid, status = os.waitpid(self.pids[rank], os.WNOHANG)
            if pid:
                self._codes[rank] = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > end:
                raise TimeoutError(f"rank {rank} still runs; it said:\n{self.said(rank)[-2000:]}")
            else:
                time.sleep(0.005)
        return self._codes[rank]

    def _result(self, rank: int) -> Any:
        path = self.folder / f"{rank}.pickle"
        return pickle.loads(path.read_bytes()) if path.exists() else None

    def _fork(
        self, work: Callable[[], Any], rank: int, count: int, port: int, environment: Mapping[str, str]
    ) -> int:
        child = os.fork()
        if child:
            return child
        code = 1
        try:
            code = self._run(work, rank, count, port, environment)
        finally:  # a child must never go on as a second pytest
            os._exit(code)

    def _run(
        self, work: Callable[[], Any], rank: int, count: int, port: int, environment: Mapping[str, str]
    ) -> int:
        file = os.open(self.folder / f"{rank}.log", os.O_WRONLY | os.O_CREAT)
        os.dup2(file, 1)
        os.dup2(file, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        os.environ |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(count),
            "LOCAL_WORLD_SIZE": str(count),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            **environment,
        }
        import torch

        torch.set_num_threads(1)
        _forget_that_we_were_alone()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, signal.SIG_DFL)
        try:
            result = work()
        except FinetuneError as error:
            log.failure(error)
            return error.exit_code
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            return 1
        (self.folder / f"{rank}.pickle").write_bytes(pickle.dumps(result))
        sys.stdout.flush()
        sys.stderr.flush()
        return 0


def _forget_that_we_were_alone() -> None:
    """The parent may have trained in one process already; what it met there is not ours."""
    from accelerate.state import AcceleratorState, PartialState

    from finetune.train.parallel import group

    group._device = group._control = None
    AcceleratorState._reset_state(reset_partial_state=True)
    PartialState._reset_state()


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


def run_ranks(work: Callable[[], Any], count: int = 2, seconds: float = 120) -> list[Any]:
    """What `work` returns in each process; AssertionError with what it said where one fails."""
    with Ranks(work, count) as ranks:
        ended = ranks.join(seconds)
    failed = [(rank, one) for rank, one in enumerate(ended) if one.code]
    assert not failed, "\n".join(
        f"rank {rank} ended with {one.code}:\n{one.said[-6000:]}" for rank, one in failed
    )
    return [one.result for one in ended]
