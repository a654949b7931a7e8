"""`finetune launch`: what it refuses, prints and writes."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from finetune.errors import ConfigError, FolderInUseError, StorageError
from finetune.launch.job import label
from finetune.launch.story import job_of, page, write
from tests.launch.conftest import Launch

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "scripts" / "slurm-example.sh"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("GLM4_lora.v2", "glm4-lora-v2"),
        ("8b", "finetune-8b"),
        ("数据", "finetune"),
        ("..", "finetune"),
        ("a\nb $(c)", "a-b-c"),
        ("x" * 49 + "--y", "x" * 49),
        ("9" * 60, "finetune-" + "9" * 41),
    ],
)
def test_a_job_has_a_name_that_every_system_accepts(text: str, name: str) -> None:
    assert label(text) == name


def test_a_job_is_called_as_the_run_or_else_as_its_folder(launch: Launch) -> None:
    assert launch("slurm", output="some/Where", run_name="The run").name == "the-run"
    assert launch("slurm", output="some/Where").name == "where"


def test_a_mistake_in_the_yaml_is_told_before_anything_is_queued(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("data_config: {train_file: none.jsonl}\ntraining_args: {max_stepz: 1}\n")
    with pytest.raises(ConfigError, match=r"c.yaml:1:27: .*no file none.jsonl(?s:.*)c.yaml:2:17: .*max_stepz"):
        job_of("slurm", tmp_path, "m", config, nodes=2, gpus=8)


def test_a_name_that_is_not_utf8_is_refused(launch: Launch) -> None:
    with pytest.raises(ConfigError, match="not UTF-8"):
        launch("slurm", data="\udcff")


def test_a_file_is_written_once_and_the_command_that_starts_it_is_said(launch: Launch) -> None:
    job = launch("slurm")
    said = write(job, Path("my job.sh"))
    assert said == [
        "my job.sh: 2 x 8 processes. Fill in what it asks for; this starts it:",
        "sbatch 'my job.sh'",
    ]
    assert Path("my job.sh").read_text() == page(job)
    with pytest.raises(FolderInUseError, match=r"my job\.sh: exists already"):
        write(job, Path("my job.sh"))
    with pytest.raises(StorageError, match="nowhere: no such folder"):
        write(job, Path("nowhere/job.sh"))


def test_the_example_is_what_the_command_in_its_second_line_prints(tmp_path: Path) -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    words = shlex.split(text.splitlines()[1].removeprefix("# "))
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "data").mkdir()
    for name in ("train.jsonl", "dev.jsonl"):
        (tmp_path / "data" / name).touch()
    done = subprocess.run([sys.executable, "-m", *words], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == text
    assert json.dumps(words) == json.dumps(
        ["finetune", "launch", "slurm", "data", "THUDM/glm-4-9b-chat-hf", "configs/lora.yaml", "--nodes", "2"]
    )
