"""`finetune launch`: check the configuration, then print or write the job file. Starts nothing."""

import shlex
from pathlib import Path

from finetune.config.load import load_config
from finetune.disk import refuse_existing_file, write_atomically
from finetune.launch.job import Job, Kind, describe
from finetune.launch.manifests import kubeflow, skypilot
from finetune.launch.scripts import slurm

_PAGES = {"slurm": slurm, "skypilot": skypilot, "kubeflow": kubeflow}
_START = {"slurm": "sbatch", "skypilot": "sky jobs launch", "kubeflow": "kubectl create -f"}


def job_of(kind: Kind, data_dir: Path, model: str, config: Path, *, nodes: int, gpus: int) -> Job:
    """The job for a run that `finetune train` would accept; ConfigError tells every mistake in the YAML."""
    loaded = load_config(config, data_dir=data_dir)
    return describe(kind, data_dir, model, config, loaded, nodes=nodes, gpus=gpus)


def page(job: Job) -> str:
    """The whole job file."""
    return _PAGES[job.kind](job)


def write(job: Job, output: Path) -> list[str]:
    """Write the job file and return what to say. Raises FolderInUseError where `output` exists."""
    refuse_existing_file(output)
    write_atomically(output, page(job).encode())
    return [
        f"{output}: {job.nodes} x {job.gpus} processes. Fill in what it asks for; this starts it:",
        f"{_START[job.kind]} {shlex.quote(str(output))}",
    ]
