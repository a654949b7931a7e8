"""Real runs in forked children: started, killed, signalled, and compared with one that nothing happened to.

run = Run(data, model, configure(LORA, …))     what is trained, where
child = run.start()                            fork; torch is imported already
child.kill_after(0.3)                          -9, or 0 where it was done before
assert_same_end(run.output, expected)          byte for byte
"""

import ctypes
import faulthandler
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

import finetune.train.session  # noqa: F401  imported once, before the forks
from finetune.errors import FinetuneError
from finetune.train.run import train
from tests.train.conftest import LORA, PREFIX

METHODS: dict[str, dict[str, Any] | None] = {"lora": LORA, "prefix": PREFIX, "full": None}
STEPS = 12
OFTEN = {
    "max_steps": STEPS,
    "save_steps": 2,
    "save_total_limit": 2,
    "eval_strategy": "steps",
    "eval_steps": 3,
}
"""Checkpoints that come and go, with evaluations between."""
PHASES = {
    "while data is encoded": ("finetune.train.prepare", "_encoded", 2),
    "while the model is loaded": ("finetune.train.session", "make_trainee", 1),
    "in a step": ("finetune.train.loop", "collate", 5),
    "in an evaluation": ("finetune.train.loop.Loop", "_evaluate", 2),
    "in a save": ("finetune.train.checkpoint.save", "write_state", 2),
    "while an old checkpoint is removed": ("finetune.train.checkpoint.retain", "_remove", 2),
    "in the last save": ("finetune.train.checkpoint.save", "write_state", 6),
    "in the evaluation on test_file": ("finetune.train.session", "_test", 1),
}
"""Where something happens to a run: module or class, function, at which of its calls."""
LONGEST_SECONDS = 60
"""After which a child is taken to hang: it is killed, after it has said where it stands."""

_SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux

Prepare = Callable[[], None]


@dataclass
class Child:
    """A forked process; `said` is what it wrote."""

    pid: int
    log: Path
    started: float = field(default_factory=time.monotonic)
    seconds: float = 0.0

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill_after(self, seconds: float) -> int:
        """kill -9 then; returns as `wait` does: -9, or how it had ended before."""
        return self.signal_after(seconds, signal.SIGKILL)

    def signal_after(self, seconds: float, number: int) -> int:
        time.sleep(max(0.0, self.started + seconds - time.monotonic()))
        os.kill(self.pid, number)  # a child that has ended is a zombie until it is waited for: no error
        return self.wait()

    def wait(self, seconds: float = LONGEST_SECONDS) -> int:
        """The exit code; negative: the signal."""
        while time.monotonic() < self.started + seconds:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.seconds = time.monotonic() - self.started
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.002)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        raise TimeoutError(f"still runs after {seconds} s; it said:\n{self.said[-3000:]}")

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def saying(self, text: str, seconds: float = LONGEST_SECONDS) -> "Child":
        """Wait until it has said that."""
        end = time.monotonic() + seconds
        while text not in self.said:
            assert time.monotonic() < end, f"did not say {text!r}:\n{self.said[-3000:]}"
            time.sleep(0.002)
        return self


@dataclass(frozen=True)
class Run:
    """A command `finetune train data model config`."""

    data: Path
    model: Path
    config: Path
    output: Path

    def start(
        self, resume: str | None = "yes", prepare: Prepare | None = None, log: Path | None = None
    ) -> Child:
        """Train in a child; `prepare` is called in it first, to break what is to be broken."""
        return fork(lambda: train(self.data, str(self.model), self.config, resume), prepare, log or self.log)

    def to_the_end(self, resume: str | None = "yes") -> Child:
        child = self.start(resume)
        code = child.wait()
        assert code == 0, f"ended with {code}:\n{child.said[-5000:]}"
        return child

    @property
    def log(self) -> Path:
        return self.config.with_suffix(".log")

    def finished(self) -> "Run":
        """Itself, after an uninterrupted run."""
        self.to_the_end()
        return self


def fork(work: Callable[[], object], prepare: Prepare | None, log: Path) -> Child:
    """Do `work` in a child as the command line would: its exit codes, no traceback for a FinetuneError."""
    sys.stdout.flush()
    sys.stderr.flush()
    log.write_bytes(b"")
    pid = os.fork()
    if pid:
        return Child(pid, log)
    code = 1
    try:
        code = _run(work, prepare, log)
    finally:  # a child must never go on as a second pytest
        os._exit(code)


def _run(work: Callable[[], object], prepare: Prepare | None, log: Path) -> int:
    ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)  # never outlive the tests
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", closefd=False)
    faulthandler.dump_traceback_later(LONGEST_SECONDS - 5, file=sys.stderr)
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    try:
        if prepare is not None:
            prepare()
        work()
    except FinetuneError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        return 1
    return 0


def _named(path: str) -> Any:
    """A module, or a class of one."""
    head, _, last = path.rpartition(".")
    return getattr(import_module(head), last) if last[0].isupper() else import_module(path)


def at_call(path: str, name: str, call: int, act: Callable[[], None]) -> Prepare:
    """Do `act` as the `call`-th call of a function begins."""

    def prepare() -> None:
        owner, calls = _named(path), 0
        original = getattr(owner, name)

        def counted(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == call:
                print("HERE", flush=True)
                act()
            return original(*arguments, **options)

        setattr(owner, name, counted)

    return prepare


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, by its path in it."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def numbers(output: Path) -> list[Mapping[str, float]]:
    """The lines of metrics.jsonl without what a clock or the machine decides."""
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    timed = ("tokens_per_second", "supervised_tokens_per_second", "peak_memory_gb", "seconds")
    return [{key: value for key, value in line.items() if key not in timed} for line in lines]


def assert_same_end(output: Path, expected: Path) -> None:
    """The last checkpoint, manifest included, and every line of metrics are those of the undisturbed run."""
    ended, wanted = content(output / f"checkpoint-{STEPS}"), content(expected / f"checkpoint-{STEPS}")
    assert {"training_state.safetensors", "manifest.json"} < ended.keys()
    assert ended.keys() == wanted.keys()
    assert [name for name in ended if ended[name] != wanted[name]] == []
    steps = [line["step"] for line in numbers(output) if "loss" in line]
    assert steps == list(range(1, STEPS + 1))
    assert numbers(output) == numbers(expected)
    assert not list(output.glob("tmp-*")) and not list(output.glob("rejected-*"))
    run = json.loads((output / "run.json").read_text())
    assert (run["status"], run["exit_code"]) == ("done", 0)
