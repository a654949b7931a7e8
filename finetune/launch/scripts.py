"""The shell texts of this folder with a job's values in them."""

import re
import shlex
from pathlib import Path

from finetune.launch.job import GRACE, TORCHRUN_OPTIONS, WARNING, Job

_CPUS_PER_GPU = 4


def slurm(job: Job) -> str:
    """A batch script, to be given to sbatch."""
    return _fill("slurm.sh", job)


def skypilot_run(job: Job) -> str:
    """What every node of a SkyPilot task runs."""
    return _fill("skypilot.sh", job)


def _fill(name: str, job: Job) -> str:
    """The text with each `@KEY@` replaced; in one pass, so that nothing in a value is taken for a key."""
    values = {
        "ORIGIN": job.origin,
        "NAME": job.name,
        "NODES": str(job.nodes),
        "GPUS": str(job.gpus),
        "CPUS": str(_CPUS_PER_GPU * job.gpus),
        "WARNING": str(WARNING),
        "GRACE": str(GRACE),
        "OUTPUT": shlex.quote(job.output_dir),
        "TRAIN": shlex.join(job.train),
        "OPTIONS": " \\\n        ".join(TORCHRUN_OPTIONS),
    }
    text = Path(__file__).with_name(name).read_text(encoding="utf-8")
    return re.sub("@([A-Z]+)@", lambda found: values[found[1]], text)
