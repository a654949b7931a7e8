"""A tiny training, processes that die on purpose, and operations of the system that fail on purpose.

Children are forked: torch is imported once. They use one thread, because a child that computes on two hangs
where its parent has done so before.
"""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from finetune.errors import FinetuneError
from finetune.train.checkpoint.holder import WholeHolder
from finetune.train.checkpoint.identity import Identity
from finetune.train.checkpoint.resume import choose_resume, make_way
from finetune.train.checkpoint.rng import restore_rng
from finetune.train.checkpoint.save import restore, save_checkpoint, snapshot
from tests.faults.runs import METHODS, OFTEN, Run
from tests.train.conftest import configure_in, write_data

KILLED = 9
IDENTITY = Identity({}, "a", "t", {}, 8, 100, {"world_size": 1, "versions": {}})


class Training:
    """Dropout, AdamW and a schedule, a few hundred numbers; saves like a run does."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.3), nn.Linear(8, 2))
        self.named = dict(self.model.named_parameters())
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        self.schedule = LambdaLR(self.optimizer, lambda step: 1 / (1 + step))
        self.step = 0

    def advance(self, steps: int = 1) -> "Training":
        for _ in range(steps):
            self.model(torch.randn(3, 4)).square().sum().backward()
            self.optimizer.step()
            self.schedule.step()
            self.optimizer.zero_grad()
            self.step += 1
        return self

    def save(self, output: Path, limit: int | None = 2) -> Path:
        state = snapshot(self.step, WholeHolder(self.named, self.optimizer), self.schedule)
        return save_checkpoint(output, state, write_model, identity=IDENTITY, limit=limit)

    def resume(self, output: Path) -> "Training":
        """Go on from the newest checkpoint, or begin where there is none."""
        chosen = choose_resume(output, "yes")
        make_way(output, chosen)
        if chosen is not None:
            state = restore(chosen, WholeHolder(self.named, self.optimizer), self.optimizer, self.schedule)
            assert restore_rng(state.rng)
            self.step = state.step
        return self

    def bits(self) -> bytes:
        return b"".join(p.detach().numpy().tobytes() for p in self.named.values())


def write_model(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"r": 8}')
    (folder / "sub").mkdir()
    (folder / "sub" / "template.jinja").write_text("{{ messages }}")


class Operations:
    """Counts what a process asks of the file system under `root`, and meets the k-th with `act`.

    Python reports opens, renames, removals … to audit hooks before it does them, whoever calls; fsync and
    write it does not, so these two are wrapped. An audit hook stays for good: only in a forked child.
    """

    NAMES = frozenset({"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.truncate"})

    def __init__(self, root: Path, at: int, act: Callable[[str], None]) -> None:
        self.root, self.at, self.act, self.seen = str(root), at, act, 0
        self.trace: list[tuple[str, str]] = []

    def install(self) -> "Operations":
        write = os.write

        def counted_fsync(descriptor: int) -> None:
            self.note("fsync", descriptor)

        def counted_write(descriptor: int, data: Any) -> int:
            if self.seen + 1 == self.at and self.concerns(descriptor):
                write(descriptor, bytes(data)[: len(data) // 2])  # torn
            self.note("write", descriptor)
            return write(descriptor, data)

        os.fsync, os.write = counted_fsync, counted_write
        sys.addaudithook(self.hear)
        return self

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in self.NAMES:
            self.note(event, arguments[0], removing=event in ("os.remove", "os.rmdir"))

    def concerns(self, target: object) -> bool:
        path = self.path_of(target)
        return path == self.root or path.startswith(f"{self.root}/")

    def path_of(self, target: object) -> str:
        if isinstance(target, int):
            return str(Path(f"/proc/self/fd/{target}").readlink())
        return os.fspath(target) if isinstance(target, str | os.PathLike) else ""

    def note(self, name: str, target: object, removing: bool = False) -> None:
        # rmtree removes by names relative to an open folder
        if not (self.concerns(target) or (removing and not self.path_of(target).startswith("/"))):
            return
        self.seen += 1
        self.trace.append((name, self.path_of(target)))
        if self.seen == self.at:
            self.act(name)


def die(name: str) -> NoReturn:
    os._exit(KILLED)


def fail_with(number: int) -> Callable[[str], None]:
    def fail(name: str) -> None:
        raise OSError(number, os.strerror(number))

    return fail


def forked(work: Callable[[], object], kill_after: float | None = None) -> int:
    """Run `work` in a child, with kill -9 after so many seconds where that is asked for.

    Returns its exit code: 0, that of a FinetuneError, 1 with a traceback, or -9 for the kill.
    """
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = _exit_code(work)
        finally:  # a child must never go on as a second pytest
            os._exit(code)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _exit_code(work: Callable[[], object]) -> int:
    torch.set_num_threads(1)
    try:
        work()
    except FinetuneError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


@pytest.fixture(scope="session")
def undisturbed(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Run]:
    """`undisturbed(method)`: a run (with checkpoints `OFTEN`) that nothing happened to; for reading only."""
    place = tmp_path_factory.mktemp("undisturbed")
    data, done = write_data(place), dict[str, Run]()

    def run(method: str) -> Run:
        if method not in done:
            config = configure_in(place)(METHODS[method], method, **OFTEN)
            done[method] = Run(data, small, config, place / method).finished()
        return done[method]

    return run


@pytest.fixture(autouse=True)
def disk_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill loses nothing that the system already holds: waiting for the disk would only cost time."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.fixture
def harness() -> ModuleType:
    """This file."""
    return sys.modules[__name__]
