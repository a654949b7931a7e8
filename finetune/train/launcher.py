"""One process per GPU, started and watched from here, so that `finetune train` alone uses the whole machine.

    launcher ── rank 0   speaks for all of them
             ├─ rank 1   what it says is shown when it fails
             └─ …

Signals are passed on once, and the exit code is that of the run. A process that dies takes the others with it:
they would wait for it. Under torchrun, accelerate, deepspeed or SLURM this process is itself one of many, and
nothing is started.
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO

from finetune import log, world
from finetune.config.load import load_config
from finetune.config.permissions import Permissions
from finetune.config.schema import Config
from finetune.errors import ConfigError, FinetuneError, ModelError, Preempted, RankFailedError, ToldError
from finetune.folder import RUN_FILE, read_run, write_json
from finetune.printing import Lines
from finetune.redaction import redacted
from finetune.train.record import now
from finetune.train.run import described_config, rerun, run

GRACE_SECONDS = 8
"""For the others to end by themselves after one has failed: most of them notice."""
_POLL_SECONDS = 0.05
_PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
_SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux


def launch(
    data_dir: Path,
    model: str,
    config: Path,
    resume: str | None,
    overrides: Sequence[str],
    processes: int | None = None,
    *,
    profiled: bool = False,
) -> Path:
    """`finetune train` in as many processes as there are GPUs, or `processes`; returns the run folder.

    What the configuration lacks is told before any of them is started.
    """
    asked = load_config(config, overrides, data_dir=data_dir)
    count = count_processes(asked, processes)
    if count == 1:
        return run(asked, data_dir, model, resume, profiled=profiled)
    log.set_level(asked.training_args.logging.log_level)
    words = [str(data_dir), model, str(config), *(() if resume is None else (resume,))]
    options = [word for override in overrides for word in ("--set", override)]
    options += ["--profile"] if profiled else []
    output = Path(asked.training_args.saving.output_dir)
    supervise(["train", *options, "--", *words], count, output)
    return output


def relaunch(
    output: Path,
    new_output: Path,
    processes: int | None = None,
    permissions: Permissions = Permissions(),
) -> Path:
    """`finetune rerun`, likewise."""
    count = count_processes(described_config(output, new_output, permissions)[0], processes)
    if count == 1:
        return rerun(output, new_output, permissions)
    supervise(["rerun", *permissions.options(), "--", str(output), str(new_output)], count, new_output)
    return new_output


def count_processes(config: Config, asked: int | None) -> int:
    """How many to start here: what is asked for, else one per GPU that is to be used; one without GPUs."""
    if world.launched():
        if asked is not None:
            raise ConfigError(
                "--nproc: another launcher has started this process, and decides how many there are"
            )
        return 1
    if asked is not None:
        return asked
    return 1 if config.training_args.placement.use_cpu else max(1, visible_gpus())


def visible_gpus() -> int:
    """GPUs that this process may use. torch is asked only where there is something to find."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return len([entry for entry in listed.split(",") if entry.strip() not in ("", "-1")])
    if not (Path("/proc/driver/nvidia/gpus").is_dir() or Path("/dev/kfd").exists()):
        return 0
    import torch

    return torch.cuda.device_count()


@dataclass(frozen=True, slots=True)
class _Rank:
    number: int
    process: subprocess.Popen[bytes]
    said: IO[bytes] | None
    """What it wrote; None for the first one, which speaks for itself."""

    @property
    def code(self) -> int | None:
        return self.process.poll()


def supervise(command: Sequence[str], count: int, output: Path) -> None:
    """Run a command of finetune in `count` processes on this machine, until all have ended.

    Raises ToldError with the exit code where they agree on one (rank 0 has said why), RankFailedError naming
    the process that failed where the others did not.
    """
    log.info(f"{count} processes")
    with _started(command, count) as ranks, _passing_signals_on(ranks):
        first = _watch(ranks)
        codes = [rank.code or 0 for rank in ranks]
        if not any(codes):
            return
        if len(set(codes)) == 1 and codes[0] > 1:
            raise ToldError("the run has said why", codes[0])
        problem = RankFailedError(_cause(first))
    _write_down(output, problem)
    raise problem


@contextmanager
def _started(command: Sequence[str], count: int) -> Iterator[list[_Rank]]:
    shared = {
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS")
        or str(max(1, len(os.sched_getaffinity(0)) // count)),
    }
    ranks: list[_Rank] = []
    try:
        for number in range(count):
            environment = {**os.environ, **shared, "RANK": str(number), "LOCAL_RANK": str(number)}
            ranks.append(_start(command, number, environment))
        yield ranks
    finally:
        for rank in ranks:
            if rank.code is None:
                rank.process.kill()
                rank.process.wait()


def _start(command: Sequence[str], number: int, environment: dict[str, str]) -> _Rank:
    said = tempfile.TemporaryFile() if number else None  # noqa: SIM115  (open as long as the process runs)
    debug = ["--debug"] if log.shows_tracebacks() else []
    process = subprocess.Popen(
        [sys.executable, "-m", "finetune", *debug, *command],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=said,
        start_new_session=True,  # Ctrl-C reaches the launcher alone, and is passed on once
        preexec_fn=_end_with_the_launcher,
    )
    return _Rank(number, process, said)


def _end_with_the_launcher() -> None:
    """Ask Linux for a SIGTERM should the launcher be killed: the step is finished and saved, nobody is left."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGTERM)


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


@contextmanager
def _passing_signals_on(ranks: Sequence[_Rank]) -> Iterator[None]:
    def pass_on(number: int, frame: FrameType | None) -> None:
        for rank in ranks:
            if rank.code is None:
                with suppress(ProcessLookupError):
                    rank.process.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in _PASSED_ON}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _watch(ranks: Sequence[_Rank]) -> _Rank:
    """Wait until all have ended; returns the first that failed, else the first."""
    failed: list[_Rank] = []
    deadline = float("inf")
    while any(rank.code is None for rank in ranks):
        failed += [rank for rank in ranks if rank.code and rank not in failed]
        # Preempted ones have agreed to end, and the first may still be writing.
        if deadline == float("inf") and any(rank.code != Preempted.exit_code for rank in failed):
            deadline = time.monotonic() + GRACE_SECONDS
        if time.monotonic() > deadline:
            for rank in ranks:
                if rank.code is None:
                    rank.process.kill()
        time.sleep(_POLL_SECONDS)
    failed += [rank for rank in ranks if rank.code and rank not in failed]
    # One that says it lost another is not the one that failed.
    culprits = [rank for rank in failed if rank.code != RankFailedError.exit_code]
    return next(iter([*culprits, *failed, *ranks]))


def _cause(rank: _Rank) -> str:
    """Which process failed, and why as far as it could say."""
    code = rank.code or 0
    if code < 0:
        how = f"was killed by {signal.Signals(-code).name}"
        hint = " (the system may have run out of memory: see dmesg)" if -code == signal.SIGKILL else ""
        return f"rank {rank.number} {how}{hint}; RESUME yes goes on from the last checkpoint"
    how, *said = _last_words(rank)
    return Lines([f"rank {rank.number} ended with exit code {code}; {how}", *said])


def _last_words(rank: _Rank) -> list[str]:
    if rank.said is None:
        return ["it said why above"]
    rank.said.seek(0)
    lines = rank.said.read().decode(errors="replace").strip().splitlines()
    return ["it said:", *(f"  {line}" for line in lines[-30:])]


def _write_down(output: Path, problem: FinetuneError) -> None:
    """run.json of a run whose first process may not have lived to write how it ended."""
    try:
        content = read_run(output)
    except ModelError:
        return
    if content.get("status") in ("running", "failed"):
        ended = {
            "status": "failed",
            "exit_code": problem.exit_code,
            "error": redacted(str(problem)),
            "finished": now(),
        }
        write_json(output / RUN_FILE, content | ended)
