"""What a job's script meets on a cluster, played by one program under three names: srun, scontrol, torchrun.

Each notes what it was called with in $CLUSTER. $PLAN says how every torchrun ends.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

NOTES = Path(os.environ["CLUSTER"])


def note(name: str, **what: object) -> None:
    """A whole file or none: a test waits for it."""
    path = NOTES / f"{name}.json"
    path.with_suffix(".new").write_text(json.dumps(what))
    path.with_suffix(".new").rename(path)


def scontrol(words: list[str]) -> int:
    """`show hostnames LIST` and `requeue JOB`."""
    if words[0] == "show":
        print(os.environ["HOSTS"])
    note(words[0], argv=words)
    return 0


def srun(words: list[str]) -> int:
    """Start the command once per node and pass SIGUSR1 on, as srun does."""
    options = [word for word in words if word.startswith("--")][: words.index("bash")]
    command = words[words.index("bash") :]
    tasks = [
        subprocess.Popen(command, env={**os.environ, "SLURM_NODEID": str(node)})
        for node in range(len(os.environ["HOSTS"].split()))
    ]
    signal.signal(signal.SIGUSR1, lambda number, _: [task.send_signal(number) for task in tasks])
    note("srun", options=options)
    return max(task.wait() for task in tasks)


def torchrun(words: list[str]) -> int:
    """Wait for SIGUSR1 where the plan wants one; leave the run.json of that plan, and torchrun's exit code."""
    waits, status, code = {
        "done": (False, "done", 0),
        "fails": (False, "failed", 1),
        "is preempted": (True, "preempted", 1),
        "is preempted, without a word from SLURM": (False, "preempted", 1),
        "is killed before it has saved": (True, "running", 1),
        "is stopped before it begins": (True, None, 1),
        "fails while it saves": (True, "failed", 1),
        "is done when the signal comes": (True, "done", 0),
    }[os.environ["PLAN"]]
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    note(f"torchrun-{os.environ['SLURM_NODEID']}", argv=words, threads=os.environ["OMP_NUM_THREADS"])
    print("a line")
    if waits:
        signal.sigwait([signal.SIGUSR1])
    if status is not None and os.environ["SLURM_NODEID"] == "0":
        state = {"status": status, "exit_code": 75, "started": "today"}
        Path(os.environ["RUN"], "run.json").write_text(json.dumps(state))
    return code


if __name__ == "__main__":
    sys.exit({"srun": srun, "scontrol": scontrol, "torchrun": torchrun}[Path(sys.argv[0]).name](sys.argv[1:]))
