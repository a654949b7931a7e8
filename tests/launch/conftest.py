"""A folder to launch from, and names that a careless job file would run, split or lose."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from finetune.launch.job import Job, Kind
from finetune.launch.story import job_of

NAMES = (
    "plain",
    "two words",
    'it\'s "quoted"',
    "$(touch hacked)`touch hacked`$HOME",
    "a;touch hacked&",
    "line\ntouch hacked\n#SBATCH --time=1",
    "-x",
    "--help",
    "a ~b",
    "*",
    "@NODES@",
    "%j\\",
    "yes",
    "[0]=1",
    "{a,b}",
    "数据 \u2028é",
    "a\rb\tc",
)

Launch = Callable[..., Job]


@pytest.fixture
def launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Launch:
    """The job for a YAML in the current folder, `launch(kind, data=, output=, run_name=, nodes=, gpus=)`."""
    monkeypatch.chdir(tmp_path)

    def make(
        kind: Kind,
        data: str = "data",
        output: str = "out",
        run_name: str | None = None,
        nodes: int = 2,
        gpus: int = 8,
    ) -> Job:
        Path(data).mkdir(exist_ok=True)
        (Path(data) / "train.jsonl").touch()
        config = Path(f"{data}.yaml")
        arguments = {"output_dir": output, "run_name": run_name}
        config.write_text(
            json.dumps({"data_config": {"train_file": "train.jsonl"}, "training_args": arguments})
        )
        return job_of(kind, Path(data), data, config, nodes=nodes, gpus=gpus)

    return make
