"""A process that dies ends the run soon, and nothing that was saved is harmed."""

import errno
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.folder import checkpoints, verify
from finetune.model.batch import Batch
from tests.faults.runs import at_call
from tests.parallel.conftest import SHARED, STEPS
from tests.ranks import Ranks, free_port, run_ranks
from tests.tiers import NIGHTLY, by_tier

SOON = 20  # seconds in which a run must end when one of its processes does

PHASES = {
    "while data is encoded": ("finetune.train.prepare", "_encoded", 1),
    "while the model is loaded": ("finetune.train.session", "make_trainee", 1),
    "in a step": ("finetune.train.loop", "collate", 8),
    "in a save": ("finetune.train.checkpoint.save", "write_state", 1),
    "in the last save": ("finetune.train.checkpoint.save", "write_state", 2),
}
"""Where a process dies, one after the other: module, function, at which of its calls since it was started."""


def train(
    data: Path, model: Path, config: Path, resume: str | None, before: Callable[[], None] | None = None
) -> None:
    from finetune.train.run import train as run

    if before is not None:
        before()
    run(data, str(model), config, resume=resume)


def die(rank: int, path: str, name: str, call: int) -> None:
    """Let the process of this rank kill itself as that call begins."""
    from finetune import world

    if world.rank() == rank:
        at_call(path, name, call, lambda: os.kill(os.getpid(), signal.SIGKILL))()


@pytest.mark.parametrize("back_end", by_tier(SHARED, ["ddp"]))
def test_one_of_two_killed_in_any_phase_harms_nothing(
    back_end: str, small: Path, ragged: Path, tmp_path: Path, configured: Callable[..., Path]
) -> None:
    """Now the main process, now the other: what is left ends, and the run goes on to the same bytes."""
    config, output = configured(back_end), tmp_path / "out"
    run_ranks(partial(train, ragged, small, config, None))
    expected = (output / f"checkpoint-{STEPS}" / "training_state.safetensors").read_bytes()
    shutil.rmtree(output)
    for number, (phase, place) in enumerate(PHASES.items()):
        victim = 0 if "save" in phase else number % 2  # only the main process writes
        with Ranks(partial(train, ragged, small, config, "yes", partial(die, victim, *place))) as ranks:
            ended = ranks.join_like_a_launcher()
        assert ended[victim].code == -signal.SIGKILL, f"{phase}:\n{ended[victim].said[-3000:]}"
        assert ended[1 - victim].code in (9, -signal.SIGKILL), f"{phase}:\n{ended[1 - victim].said[-3000:]}"
        for checkpoint in checkpoints(output):
            verify(checkpoint)
    run_ranks(partial(train, ragged, small, config, "yes"))
    assert (output / f"checkpoint-{STEPS}" / "training_state.safetensors").read_bytes() == expected
    assert not list(output.glob("tmp-*")) and not list(output.glob("rejected-*"))


def kill_at_random(data: Path, model: Path, config: Path, output: Path, kills: int) -> str:
    """Kill one of two processes at random instants, again and again, each run to its end; tells of it.

    Like our launcher, kill what has not noticed after a while: one that still waits for the other to join.
    """
    chance, hit, unnoticed = random.Random(0), 0, 0
    began = time.monotonic()
    with Ranks(partial(train, data, model, config, None)) as ranks:
        assert [one.code for one in ranks.join()] == [0, 0]
    whole = time.monotonic() - began
    expected = (output / f"checkpoint-{STEPS}" / "training_state.safetensors").read_bytes()
    while hit < kills:
        shutil.rmtree(output)
        codes: list[int] = []
        while codes != [0, 0]:
            victim = chance.randrange(2)
            with Ranks(partial(train, data, model, config, "yes")) as ranks:
                time.sleep(chance.uniform(0, whole))
                ranks.kill(victim)
                ended = ranks.join_like_a_launcher()
            codes = [one.code for one in ended]
            if codes[victim] == -signal.SIGKILL:
                other = codes[1 - victim]
                assert other in (9, -signal.SIGKILL, 0), ended[1 - victim].said
                hit, unnoticed = hit + 1, unnoticed + (other == -signal.SIGKILL)
                codes = []
            for checkpoint in checkpoints(output):
                verify(checkpoint)
        assert (output / f"checkpoint-{STEPS}" / "training_state.safetensors").read_bytes() == expected
        assert not list(output.glob("tmp-*")) and not list(output.glob("rejected-*"))
    return f"{hit} kills of one of two, every end byte-equal; {unnoticed} times the other had to be ended"


@NIGHTLY
@pytest.mark.parametrize("back_end", SHARED)
def test_one_of_two_killed_at_random_instants_harms_nothing(
    back_end: str, small: Path, ragged: Path, tmp_path: Path, configured: Callable[..., Path]
) -> None:
    print(back_end, kill_at_random(ragged, small, configured(back_end), tmp_path / "out", kills=5))


@pytest.mark.long
@pytest.mark.parametrize("back_end", SHARED)
def test_one_of_two_killed_a_hundred_times_harms_nothing(
    back_end: str, small: Path, ragged: Path, tmp_path: Path, configured: Callable[..., Path]
) -> None:
    print(back_end, kill_at_random(ragged, small, configured(back_end), tmp_path / "out", kills=100))


@pytest.mark.parametrize(
    ("back_end", "number"),
    by_tier(
        itertools.product(SHARED, [signal.SIGTERM, signal.SIGUSR1]),
        [("ddp", signal.SIGTERM), ("zero-3", signal.SIGTERM), ("fsdp2", signal.SIGUSR1)],
    ),
)
def test_a_signal_to_one_process_stops_all_after_the_same_step(
    number: signal.Signals,
    back_end: str,
    small: Path,
    ragged: Path,
    tmp_path: Path,
    configured: Callable[..., Path],
) -> None:
    config = configured(back_end, max_steps=100_000, save_steps=100_000)
    with Ranks(partial(train, ragged, small, config, None)) as ranks:
        wait_for(lambda: "step " in ranks.said(0))
        ranks.kill(1, number)
        ended = ranks.join(SOON)
    assert [one.code for one in ended] == [75, 75]
    (saved,) = checkpoints(tmp_path / "out")
    verify(saved)
    assert f"stopped by {number.name} after step" in ended[0].said
    assert "RESUME yes goes on from there" in ended[0].said
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (run["status"], run["exit_code"], run["base"]["processes"]) == ("preempted", 75, 2)


@pytest.mark.parametrize(
    ("back_end", "where", "method"),
    by_tier(
        itertools.product(["ddp", "zero-3", "fsdp2"], ["model", "state", "sealing"], ["lora", "full"]),
        [("ddp", "state", "lora"), ("fsdp2", "model", "full")],
    ),
)
def test_a_disk_that_takes_no_more_stops_all_and_harms_nothing(
    back_end: str,
    where: str,
    method: str,
    small: Path,
    ragged: Path,
    tmp_path: Path,
    configured: Callable[..., Path],
) -> None:
    """In the second save, and while tensors are gathered: the other process must not wait for them for ever."""
    config = configured(back_end, method=method)
    with Ranks(
        partial(train, ragged, small, config, None, partial(fill_the_disk, where, tmp_path / "out"))
    ) as ranks:
        ended = ranks.join(SOON)
    assert [one.code for one in ended] == [8, 8]
    assert "the disk is full" in ended[0].said and "bytes) free" in ended[0].said
    assert "error" not in ended[1].said
    (whole,) = checkpoints(tmp_path / "out")
    verify(whole)
    with Ranks(partial(train, ragged, small, config, "yes")) as ranks:
        assert [one.code for one in ranks.join()] == [0, 0]


def fill_the_disk(where: str, output: Path) -> None:
    """In the second save, fail what writes the model, the training state, or brings files to the disk."""
    import finetune.disk
    import finetune.model.save
    import finetune.train.checkpoint.state as state
    from finetune import world

    if not world.is_main():
        return
    functions = {
        "model": [(finetune.model.save, name) for name in ("_sort_names", "_state_dtype", "save_file")],
        "state": [(state, "save_file")],
        "sealing": [(finetune.disk, "seal")],
    }

    def failing(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if checkpoints(output):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*arguments, **options)

        return call

    for module, name in functions[where]:
        setattr(module, name, failing(getattr(module, name)))


def wait_for(happened: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)


def test_memory_that_runs_out_in_one_process_ends_all_and_is_told_there(
    small: Path, ragged: Path, configured: Callable[..., Path]
) -> None:
    config = configured("ddp")
    with Ranks(partial(train, ragged, small, config, None, want_too_much)) as ranks:
        ended = ranks.join_like_a_launcher()
    assert ended[0].code == 9 and "another process of this run has ended" in ended[0].said
    assert ended[1].code == 10 and "error: rank 1: out of memory computing" in ended[1].said
    assert "train.jsonl:" in ended[1].said and "run.tokens_per_micro_batch" in ended[1].said


def want_too_much() -> None:
    """With several conversations at once, in the second process, ask the allocator for what no machine has."""
    from finetune import world
    from finetune.model.head import SupervisedLoss

    real = SupervisedLoss.forward

    def forward(self: SupervisedLoss, batch: Batch) -> torch.Tensor:
        if world.rank() == 1 and len(batch.borders) > 2:
            torch.empty(10**16)
        return real(self, batch)

    SupervisedLoss.forward = forward


def test_a_mistake_in_the_data_is_told_once_and_ends_all(
    small: Path, ragged: Path, configured: Callable[..., Path]
) -> None:
    with (ragged / "train.jsonl").open("a") as file:
        file.write('{"messages": [{"role": "user"}]}\n')
    with Ranks(partial(train, ragged, small, configured("ddp"), None)) as ranks:
        ended = ranks.join(SOON)
    assert [one.code for one in ended] == [2, 2]
    assert "train.jsonl:12:" in ended[0].said


# The launcher, in processes of its own: what a user starts.


@pytest.fixture
def launched(small: Path, ragged: Path, tmp_path: Path, configured: Callable[..., Path]) -> Callable[..., Any]:
    """Start `finetune train --nproc 2`, or another command before `train`; killed when the test ends."""
    started: list[subprocess.Popen[bytes]] = []
    odd = ragged.rename(tmp_path / "-n; 'a b'")

    def launch(*before: str, resume: str = "yes", **arguments: Any) -> subprocess.Popen[bytes]:
        config = configured("ddp", max_steps=100_000, save_steps=20, **arguments)
        nproc = () if before else ("--nproc", "2")
        start = before or (sys.executable,)
        command = [*start, "-m", "finetune", "train", *nproc, str(odd), str(small), str(config), resume]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        log = (tmp_path / "said").open("wb")
        process = subprocess.Popen(command, stderr=log, stdout=log, env=environment, start_new_session=True)
        started.append(process)
        return process

    yield launch
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def ranks_of(process: subprocess.Popen[bytes]) -> list[int]:
    """The processes that train, by rank."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    found = {}
    for child in map(int, children):
        environment = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        ranks = [entry for entry in environment if entry.startswith(b"RANK=")]
        if ranks:
            found[int(ranks[0].removeprefix(b"RANK="))] = child
    return [found[rank] for rank in sorted(found)]


def run_json(tmp_path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((tmp_path / "out" / "run.json").read_text())
    return content


@pytest.mark.nightly
@pytest.mark.parametrize("victim", [0, 1])
def test_the_launcher_names_the_process_that_was_killed(
    victim: int, launched: Callable[..., Any], tmp_path: Path
) -> None:
    process = launched()
    wait_for(lambda: bool(checkpoints(tmp_path / "out")))
    os.kill(ranks_of(process)[victim], signal.SIGKILL)
    assert process.wait(SOON) == 9
    assert f"rank {victim} was killed by SIGKILL" in (tmp_path / "said").read_text()
    assert (run_json(tmp_path)["status"], run_json(tmp_path)["exit_code"]) == ("failed", 9)
    assert f"rank {victim} was killed" in run_json(tmp_path)["error"]
    for checkpoint in checkpoints(tmp_path / "out"):
        verify(checkpoint)


@pytest.mark.parametrize("number", by_tier([signal.SIGTERM, signal.SIGINT], [signal.SIGTERM]))
def test_the_launcher_passes_a_signal_on_and_the_step_is_saved(
    number: signal.Signals, launched: Callable[..., Any], tmp_path: Path
) -> None:
    process = launched()
    wait_for(lambda: bool(checkpoints(tmp_path / "out")))
    process.send_signal(number)
    assert process.wait(SOON) == 75
    assert run_json(tmp_path)["status"] == "preempted"
    verify(checkpoints(tmp_path / "out")[0])


@NIGHTLY
def test_nobody_is_left_when_the_launcher_itself_is_killed(
    launched: Callable[..., Any], tmp_path: Path
) -> None:
    process = launched()
    wait_for(lambda: bool(checkpoints(tmp_path / "out")))
    children = ranks_of(process)
    process.kill()
    process.wait()
    wait_for(lambda: not any(is_alive(child) for child in children), SOON)
    assert run_json(tmp_path)["status"] == "preempted"
    verify(checkpoints(tmp_path / "out")[0])


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@NIGHTLY
def test_under_torchrun_a_restarted_run_resumes_by_itself(launched: Callable[..., Any], tmp_path: Path) -> None:
    torchrun = (
        *(
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nnodes=1",
            "--nproc-per-node=2",
            "--max-restarts=1",
        ),
        f"--master-port={free_port()}",
    )
    process = launched(*torchrun, resume="no")
    wait_for(lambda: bool(checkpoints(tmp_path / "out")))
    before = checkpoints(tmp_path / "out")[0]
    os.kill(ranks_of(process)[1], signal.SIGKILL)
    wait_for(lambda: f"going on from {tmp_path / 'out' / 'checkpoint-'}" in (tmp_path / "said").read_text())
    wait_for(lambda: checkpoints(tmp_path / "out")[0].name != before.name)
    process.send_signal(signal.SIGTERM)
    assert process.wait(SOON) != 0, "torchrun has its own exit code"
    assert (run_json(tmp_path)["status"], run_json(tmp_path)["exit_code"]) == ("preempted", 75)
