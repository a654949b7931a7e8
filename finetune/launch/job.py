"""What every job file says, whichever system reads it: the run's name, its command, torchrun's options."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from finetune.config.schema import Config
from finetune.disk import is_utf8
from finetune.errors import ConfigError

Kind = Literal["slurm", "skypilot", "kubeflow"]

GPUS_PER_NODE = 8
"""What `--gpus-per-node` is where it is not given."""

WARNING = 300
"""Seconds between the warning that a job will be stopped and its end."""

GRACE = WARNING - 30
"""Seconds that torchrun waits for its ranks after a signal, before it kills them; without this option 30."""

RESTARTS = 3

# torchrun sets TORCHELASTIC_SIGNALS_TO_HANDLE from the option, so the variable alone would do nothing.
TORCHRUN_OPTIONS = (
    f"--max-restarts={RESTARTS}",
    f"--shutdown-timeout={GRACE}",
    "--signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1",
    "--tee=3",
    "--local-ranks-filter=0",
)
"""The last two: all ranks write to files, the first one of each node to its torchrun's screen as well."""

_LONGEST_NAME = 50
"""Kubernetes allows 63 characters, and adds `-worker-12` to the name."""


@dataclass(frozen=True, slots=True)
class Job:
    """A run of `finetune train` on `nodes` machines, `gpus` processes on each. Paths are as they were typed."""

    kind: Kind
    data_dir: str
    model: str
    config: str
    nodes: int
    gpus: int
    name: str
    """Lower-case letters, digits and hyphens, a letter first: every system accepts that."""
    output_dir: str

    @property
    def train(self) -> list[str]:
        """What stands behind torchrun's options. RESUME yes begins where nothing is saved yet."""
        names = map(not_an_option, (self.data_dir, self.model, self.config))
        return ["-m", "finetune", "train", *names, "yes"]

    @property
    def origin(self) -> str:
        """The command that prints this job, on one line whatever the names hold: it stands in a comment."""
        words = ["finetune", "launch", self.kind, self.data_dir, self.model, self.config]
        words += ["--nodes", str(self.nodes)]
        if self.gpus != GPUS_PER_NODE:
            words += ["--gpus-per-node", str(self.gpus)]
        return " ".join(shlex.join(words).split())


def describe(
    kind: Kind, data_dir: Path, model: str, path: Path, config: Config, *, nodes: int, gpus: int
) -> Job:
    """The job that `config`, read from `path`, asks for. Raises ConfigError for names that are not UTF-8."""
    saving, logging = config.training_args.saving, config.training_args.logging
    for text in (str(data_dir), model, str(path), saving.output_dir):
        _require_utf8(text)
    return Job(
        kind,
        str(data_dir),
        model,
        str(path),
        nodes,
        gpus,
        label(logging.run_name or Path(saving.output_dir).name),
        not_an_option(saving.output_dir),
    )


def label(text: str) -> str:
    """`text` as a name that every system accepts; `finetune` where nothing of it can be kept."""
    kept = re.sub("[^a-z0-9]+", "-", text.lower()).strip("-")
    if not kept[:1].isalpha():
        kept = f"finetune-{kept}"
    return kept[:_LONGEST_NAME].strip("-")


def not_an_option(name: str) -> str:
    """A path that no command takes for one of its options."""
    return f"./{name}" if name.startswith("-") else name


def _require_utf8(text: str) -> None:
    if not is_utf8(text):
        raise ConfigError(f"{text!r}: not UTF-8; a job file cannot hold such a name")
