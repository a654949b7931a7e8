"""Tools in processes of their own, in turns, watched from outside: the same spans for all of them."""

import json
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.benchmark import processes
from scripts.benchmark.processes import Seen
from scripts.benchmark.recorder import LOG_FILE
from scripts.benchmark.tools import Ours, Tool
from scripts.benchmark.work import Work

ROOT = Path(__file__).parents[2]
"""From where `-m scripts.benchmark…` is found, also by another venv's Python."""
WARM_UP = 2
"""Steps that do not count: in them a library still chooses its kernels."""
_LOOK_EVERY = 0.01  # seconds
_LONGEST_RUN = 1_800  # seconds


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run of one tool. `ends`: when each optimizer step had ended, in seconds from the process's start."""

    tool: str
    ends: tuple[float, ...]
    tokens: tuple[int, ...]
    supervised: tuple[int, ...]
    peak_bytes: int
    loss: float | None
    grad_norm: float | None

    @property
    def seconds(self) -> float:
        """Of the steps behind the warm-up."""
        return self.ends[-1] - self.ends[WARM_UP - 1]

    @property
    def tokens_per_second(self) -> float:
        return sum(self.tokens[WARM_UP:]) / self.seconds

    @property
    def supervised_per_second(self) -> float:
        return sum(self.supervised[WARM_UP:]) / self.seconds

    @property
    def start_up(self) -> float:
        """Process start to the end of the first optimizer step."""
        return self.ends[0]


class FailedRunError(Exception):
    """A tool did not do what it was asked for; holds the last lines it said."""


def in_turns(tools: Sequence[Tool | Ours], work: Work, rounds: int, *, cpu_time: bool) -> Iterator[Outcome]:
    """A B C, A B C …: what a busy machine costs is shared by all. A peer that failed is left out."""
    runs = work.folder / "runs"
    runs.mkdir(exist_ok=True)
    out: set[str] = set()
    for number in range(rounds):
        for place, tool in enumerate(tools):
            if tool.name in out:
                continue
            try:
                yield run(tool, work, runs / f"{number}-{place}", cpu_time=cpu_time)
            except FailedRunError as error:
                if isinstance(tool, Ours):
                    raise
                out.add(tool.name)
                print(f"{tool.name} failed: {error}", flush=True)


def run(tool: Tool | Ours, work: Work, output: Path, *, cpu_time: bool) -> Outcome:
    """Run a tool to its end. Raises FailedRunError."""
    command = tool.command(work, output)
    said = output.with_suffix(".log")
    ends, status, peak = watched(command, tool.steps_file(output), said, cpu_time=cpu_time)
    lines = _lines(tool.steps_file(output))
    if status != 0 or len(lines) <= WARM_UP:
        raise FailedRunError(f"exit {status} after {len(lines)} steps\n{tail(said)}")
    log = lines[0] | {"peak_memory_gb": lines[-1].get("peak_memory_gb")} | _log(output)
    return Outcome(
        tool.name,
        tuple(ends[: len(lines)]),
        tuple(line["tokens"] for line in lines),
        tuple(line["supervised_tokens"] for line in lines),
        int(log["peak_memory_gb"] * 1e9) if work.wanted.device == "cuda" else peak,
        log.get("loss"),
        log.get("grad_norm"),
    )


def watched(
    command: Sequence[str], lines: Path, log: Path, *, cpu_time: bool = False
) -> tuple[list[float], int, int]:
    """When each line of `lines` was there (seconds from the start), the exit status, the peak RSS in bytes.

    cpu_time: the seconds are those a processor has worked for it.
    """
    with log.open("wb") as said:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, cwd=ROOT)
        try:
            ends, peak = _watch(process, lines, began, cpu_time)
        finally:
            process.kill()  # where the watching was interrupted; one that has ended is not touched
            process.wait()
    return ends, process.returncode, peak


def _watch(
    process: subprocess.Popen[bytes], lines: Path, began: float, cpu_time: bool
) -> tuple[list[float], int]:
    ends: list[float] = []
    seen = Seen(0, 0.0)
    while True:
        ended = process.poll() is not None
        passed = time.perf_counter() - began
        seen = seen.later(processes.look(process.pid))
        now = seen.cpu_seconds if cpu_time else passed
        ends += [now] * (_count(lines) - len(ends))
        if ended or passed > _LONGEST_RUN:
            return ends, seen.peak_bytes
        time.sleep(_LOOK_EVERY)


def tail(path: Path, lines: int = 8) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])


def _count(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _log(output: Path) -> dict[str, Any]:
    path = output / LOG_FILE
    return json.loads(path.read_text()) if path.exists() else {}
