"""The SLURM script, run by bash with a cluster that only notes what it is asked for."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from finetune.launch.job import Job
from finetune.launch.story import job_of, page
from tests.launch.conftest import NAMES, Launch
from tests.train.conftest import LORA, Configure

CLUSTER = Path(__file__).with_name("cluster.py")


@dataclass(frozen=True)
class Batch:
    """A batch script that was started, as slurmd does: from a copy, in another folder."""

    process: "subprocess.Popen[str]"
    notes: Path

    def note(self, name: str) -> Any:
        path = self.notes / f"{name}.json"
        return json.loads(path.read_text()) if path.exists() else None

    def warn(self, trains: Callable[[], bool]) -> None:
        """Send what SLURM sends before a preemption, when it `trains`."""
        until = time.monotonic() + 60
        while not trains():
            assert time.monotonic() < until and self.process.poll() is None
            time.sleep(0.02)
        self.process.send_signal(signal.SIGUSR1)

    def every_node_runs(self) -> bool:
        return all(map(self.note, ("srun", "torchrun-0", "torchrun-1")))

    def end(self) -> tuple[int, str]:
        said, _ = self.process.communicate(timeout=60)
        return self.process.returncode, said


Sbatch = Callable[..., Batch]


@pytest.fixture
def sbatch(tmp_path: Path) -> Iterator[Sbatch]:
    """Start a job's script: `sbatch(job, plan, torchrun=a real one)`; nothing of it outlives the test."""
    batches: list[Batch] = []

    def submit(job: Job, plan: str = "done", **programs: Path) -> Batch:
        batches.append(start(job, tmp_path, plan, **programs))
        return batches[-1]

    yield submit
    for batch in batches:
        with suppress(ProcessLookupError):
            os.killpg(batch.process.pid, signal.SIGTERM)
        batch.process.wait(timeout=60)


def start(job: Job, place: Path, plan: str, **programs: Path) -> Batch:
    """Run the job's script with `place` as the folder of sbatch, the one its relative paths begin in."""
    there = place / ".cluster"
    shutil.rmtree(there, ignore_errors=True)
    (there / "bin").mkdir(parents=True)
    for name in ("srun", "scontrol", "torchrun"):
        program = there / "bin" / name
        program.write_text(f"#!{sys.executable}\n{CLUSTER.read_text()}")
        program.chmod(0o755)
    for name, path in programs.items():
        (there / "bin" / name).unlink()
        (there / "bin" / name).symlink_to(path)
    (there / "script").write_text(page(job))
    environment = {
        **os.environ,
        "PATH": f"{there / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "CLUSTER": str(there),
        "HOSTS": "localhost" if programs else "\n".join(f"gpu-{node}" for node in range(job.nodes)),
        "PLAN": plan,
        "RUN": job.output_dir,
        "SLURM_SUBMIT_DIR": str(place),
        "SLURM_JOB_ID": "40017",
        "SLURM_JOB_NODELIST": "gpu-[0-1]",
    }
    process = subprocess.Popen(
        ["bash", there / "script"],
        cwd="/",
        start_new_session=True,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    return Batch(process, there)


def test_every_node_runs_torchrun_with_its_rendezvous_on_the_first(
    launch: Launch, sbatch: Sbatch, tmp_path: Path
) -> None:
    batch = sbatch(launch("slurm"))
    assert batch.end()[0] == 0
    assert batch.note("show")["argv"] == ["show", "hostnames", "gpu-[0-1]"]
    assert batch.note("srun")["options"] == ["--kill-on-bad-exit=1", "--cpus-per-task=32"]
    for node, is_host in ((0, "true"), (1, "false")):
        assert batch.note(f"torchrun-{node}") == {
            "threads": "1",
            "argv": [
                "--nnodes=2",
                "--nproc-per-node=8",
                "--rdzv-backend=c10d",
                "--rdzv-id=40017",
                "--rdzv-endpoint=gpu-0:25017",
                f"--rdzv-conf=is_host={is_host}",
                "--max-restarts=3",
                "--shutdown-timeout=270",
                "--signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1",
                "--tee=3",
                "--local-ranks-filter=0",
                f"--log-dir=out/logs/node-{node}",
                *("-m", "finetune", "train", "data", "data", "data.yaml", "yes"),
            ],
        }
        assert (tmp_path / f"out/logs/node-{node}.log").read_text() == "a line\n"


@pytest.mark.parametrize(
    ("plan", "warned", "code", "again"),
    [
        ("done", False, 0, False),
        ("fails", False, 1, False),
        ("is preempted, without a word from SLURM", False, 1, False),
        ("is preempted", True, 1, True),
        ("is killed before it has saved", True, 1, True),
        ("is stopped before it begins", True, 1, True),
        ("fails while it saves", True, 1, False),
        ("is done when the signal comes", True, 0, False),
    ],
)
def test_a_job_is_queued_again_if_a_signal_ended_it(
    plan: str, warned: bool, code: int, again: bool, launch: Launch, sbatch: Sbatch
) -> None:
    batch = sbatch(launch("slurm"), plan)
    if warned:
        batch.warn(batch.every_node_runs)
    ended, said = batch.end()
    assert ended == code, said
    assert batch.note("requeue") == ({"argv": ["requeue", "40017"]} if again else None)


def test_an_earlier_failure_in_the_folder_does_not_end_a_job_that_never_began(
    launch: Launch, sbatch: Sbatch, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/run.json").write_text('{"status": "failed", "exit_code": 7, "started": "yesterday"}')
    batch = sbatch(launch("slurm"), "is stopped before it begins")
    batch.warn(batch.every_node_runs)
    assert batch.end()[0] == 1
    assert batch.note("requeue") is not None


@pytest.mark.parametrize("name", NAMES)
def test_names_reach_finetune_as_they_are_and_run_nothing(
    name: str, launch: Launch, sbatch: Sbatch, tmp_path: Path
) -> None:
    job = launch("slurm", data=name, output=name, run_name=name)
    batch = sbatch(job)
    ended, said = batch.end()
    assert ended == 0, said
    safe = f"./{name}" if name.startswith("-") else name
    yaml = f"./{name}.yaml" if name.startswith("-") else f"{name}.yaml"
    argv = batch.note("torchrun-1")["argv"]
    assert argv[-8:] == [f"--log-dir={safe}/logs/node-1", "-m", "finetune", "train", safe, safe, yaml, "yes"]
    assert (tmp_path / name / "run.json").exists()
    assert not (tmp_path / "hacked").exists()
    head = page(job).partition("\nset -euo pipefail\n")[0].split("\n")  # SLURM reads no further
    assert [line for line in head if not line.startswith("#")] == []
    assert [line for line in head if "--time" in line and line.startswith("#SBATCH")] == [
        "#SBATCH --time=24:00:00"
    ]


@pytest.mark.long
def test_a_real_torchrun_saves_at_the_signal_and_goes_on_in_the_next_job(
    sbatch: Sbatch, tmp_path: Path, small: Path, data: Path, configure: Configure
) -> None:
    config = configure(LORA, max_steps=400, save_steps=1000, use_cpu=True)
    job = job_of("slurm", data, str(small), config, nodes=1, gpus=1)
    real = Path(sys.executable).with_name("torchrun")
    metrics = tmp_path / "out/metrics.jsonl"
    batch = sbatch(job, torchrun=real)
    batch.warn(lambda: metrics.exists() and metrics.read_text() != "")
    ended, said = batch.end()
    run = json.loads((tmp_path / "out/run.json").read_text())
    assert (ended, run["status"], run["exit_code"]) == (1, "preempted", 75), said
    assert batch.note("requeue") == {"argv": ["requeue", "40017"]}
    assert len(list((tmp_path / "out").glob("checkpoint-*"))) == 1
    batch = sbatch(job, torchrun=real)
    assert batch.end()[0] == 0
    run = json.loads((tmp_path / "out/run.json").read_text())
    assert (run["status"], run["resumed_from"][:11]) == ("done", "checkpoint-")
    assert batch.note("requeue") is None
    streams = (tmp_path / "out/logs/node-0").glob("40017_*/attempt_0/0/stderr.log")
    assert any("step 400/400" in stream.read_text() for stream in streams)
