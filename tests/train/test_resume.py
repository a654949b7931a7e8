"""Where a run begins: RESUME absent, yes, no, a step, a path, and after a restart."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

from finetune.errors import CheckpointError, FolderInUseError, ResumeMismatchError
from finetune.train.checkpoint.identity import Identity
from finetune.train.checkpoint.lock import run_lock
from finetune.train.checkpoint.resume import check_identity, choose_resume, make_way
from finetune.train.checkpoint.save import save_checkpoint
from finetune.train.checkpoint.state import OptimizerState, TrainState
from finetune.workspace import workspace


def identity(rate: float = 0.1, threads: int = 1) -> Identity:
    environment = {"world_size": 1, "threads": threads, "versions": {}}
    return Identity({"training_args.learning_rate": rate}, "a", "t", {}, 8, 100, environment)


def save(output: Path, step: int, only_model: bool = False) -> Path:
    weights = {"w": torch.full((2,), float(step))}
    state = TrainState(step, weights, OptimizerState({"w": {}}, {"w": {}}, []), {}, {})
    return save_checkpoint(output, state, write_model, identity=identity(), only_model=only_model)


def write_model(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")


def begin(output: Path, resume: str | None, restarted: bool = False) -> Path | None:
    """Choose and make way, as a run does."""
    before = sorted(output.rglob("*"))
    chosen = choose_resume(output, resume, restarted=restarted)
    assert sorted(output.rglob("*")) == before, "choosing changes nothing"
    make_way(output, chosen)
    return chosen


def damage(checkpoint: Path) -> None:
    data = bytearray((checkpoint / "training_state.safetensors").read_bytes())
    data[-1] ^= 1
    (checkpoint / "training_state.safetensors").write_bytes(data)


def left_unfinished(folder: Path) -> None:
    """What a process leaves that is killed while it writes there."""
    child = os.fork()
    if child == 0:
        with workspace(folder) as work:
            (work / "half.safetensors").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert len(list(folder.glob("tmp-*/half.safetensors"))) == 1


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """A run killed after step 30: checkpoints 10, 20, 30, its files, and something half written."""
    folder = tmp_path / "output"
    for step in (10, 20, 30):
        save(folder, step)
    (folder / "run.json").write_text(json.dumps({"status": "running"}))
    (folder / "metrics.jsonl").write_text('{"step": 1}\n')
    left_unfinished(folder)
    return folder


def names(output: Path) -> set[str]:
    return {path.name for path in output.iterdir()}


def old(output: Path) -> set[str]:
    (folder,) = output.glob("old-*")
    return names(folder)


@pytest.mark.parametrize("resume", [None, "yes", "no", "YES", "No", ""])
def test_an_empty_or_missing_folder_starts_fresh_whatever_was_asked(tmp_path: Path, resume: str | None) -> None:
    assert begin(tmp_path / "new", resume) is None
    assert begin(tmp_path, resume) is None
    assert names(tmp_path) <= {"new"}


def test_a_folder_that_holds_checkpoints_is_refused_without_a_wish(output: Path) -> None:
    before = names(output)
    with pytest.raises(
        FolderInUseError, match=r"holds checkpoint-30; RESUME yes continues it, RESUME no"
    ) as caught:
        begin(output, None)
    assert caught.value.exit_code == 3
    assert names(output) == before


def test_a_finished_run_is_refused_even_without_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"status": "done"}')
    with pytest.raises(FolderInUseError, match="holds a finished run"):
        begin(tmp_path, None)


@pytest.mark.parametrize("run", ['{"status": "failed"}', "{", "[]"])
def test_a_run_that_failed_before_its_first_checkpoint_is_moved_aside(tmp_path: Path, run: str) -> None:
    (tmp_path / "run.json").write_text(run)
    assert begin(tmp_path, None) is None
    assert old(tmp_path) == {"run.json"}


@pytest.mark.parametrize("resume", ["yes", "YES", " Yes "])
def test_yes_takes_the_newest_and_clears_what_was_half_written(output: Path, resume: str) -> None:
    assert begin(output, resume) == output / "checkpoint-30"
    assert names(output) == {"checkpoint-10", "checkpoint-20", "checkpoint-30", "run.json", "metrics.jsonl"}


def test_yes_passes_over_damage_and_puts_it_aside(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage(output / "checkpoint-30")
    (output / "checkpoint-20" / "manifest.json").unlink()
    assert begin(output, "yes") == output / "checkpoint-10"
    said = capsys.readouterr().err
    assert "checkpoint-30/training_state.safetensors: damaged: its sha256 is not the manifest's" in said
    assert "checkpoint-20/manifest.json: No such file or directory" in said
    assert said.count("; renamed rejected-") == 2
    assert sorted(name.rpartition("-")[0] for name in names(output) if name.startswith("rejected")) == [
        "rejected-20",
        "rejected-30",
    ]


def test_yes_never_starts_fresh_where_all_checkpoints_are_damaged(output: Path) -> None:
    for step in (10, 20, 30):
        damage(output / f"checkpoint-{step}")
    for _ in range(2):  # the first refusal must not make the second a fresh start
        with pytest.raises(CheckpointError, match=r"(?s)checkpoint-30.*checkpoint-20.*checkpoint-10") as caught:
            begin(output, "yes")
        assert caught.value.exit_code == 4


def test_a_model_without_training_state_is_not_resumed_from_and_not_called_damaged(output: Path) -> None:
    save(output, 40, only_model=True)
    assert begin(output, "yes") == output / "checkpoint-30"
    assert old(output) == {"checkpoint-40"}


def test_only_models_without_training_state_are_an_error(tmp_path: Path) -> None:
    save(tmp_path, 10, only_model=True)
    for resume in ("yes", "10", str(tmp_path / "checkpoint-10")):
        with pytest.raises(CheckpointError, match=r"no training state \(save_only_model: true\)"):
            begin(tmp_path, resume)


def test_a_number_takes_that_checkpoint_and_moves_the_later_ones(output: Path) -> None:
    assert begin(output, "20") == output / "checkpoint-20"
    assert old(output) == {"checkpoint-30"}
    assert {"checkpoint-10", "checkpoint-20", "run.json", "metrics.jsonl"} < names(output)


def test_a_number_that_is_not_there_lists_those_that_are(output: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint-600; there are: 10, 20, 30"):
        begin(output, "600")
    with pytest.raises(CheckpointError, match=r"no checkpoint-600; there are: none"):
        begin(output / "new", "600")


def test_a_damaged_checkpoint_that_was_asked_for_is_refused(output: Path) -> None:
    damage(output / "checkpoint-20")
    with pytest.raises(CheckpointError, match="damaged"):
        begin(output, "20")
    assert "checkpoint-30" in names(output)


@pytest.mark.parametrize("form", ["{}", "{}/", "{}/../checkpoint-20"])
def test_a_path_in_the_folder_means_the_same_as_its_number(output: Path, form: str) -> None:
    assert begin(output, form.format(output / "checkpoint-20")) == output / "checkpoint-20"
    assert old(output) == {"checkpoint-30"}


def test_a_path_elsewhere_continues_in_a_new_folder(output: Path, tmp_path: Path) -> None:
    checkpoint = output / "checkpoint-20"
    assert begin(tmp_path / "new", str(checkpoint)) == checkpoint
    assert "checkpoint-30" in names(output)
    save(tmp_path / "other", 5)
    with pytest.raises(FolderInUseError):
        begin(tmp_path / "other", str(checkpoint))


@pytest.mark.parametrize("resume", ["maybe", "./checkpoint-77", "-5", "٣"])
def test_a_wish_that_means_nothing_is_refused(output: Path, resume: str) -> None:
    with pytest.raises(
        CheckpointError, match="no such checkpoint folder; RESUME is yes, no, a step or a folder"
    ):
        begin(output, resume)


def test_no_moves_the_old_run_away_and_deletes_nothing(output: Path) -> None:
    assert begin(output, "no") is None
    assert old(output) == {"checkpoint-10", "checkpoint-20", "checkpoint-30", "run.json", "metrics.jsonl"}
    save(output, 10)
    assert begin(output, "no") is None
    assert len(list(output.glob("old-*"))) == 2


@pytest.mark.parametrize("resume", [None, "yes", "no", "20"])
def test_a_restart_goes_on_from_the_newest_whatever_was_asked_first(output: Path, resume: str | None) -> None:
    assert begin(output, resume, restarted=True) == output / "checkpoint-30"


def test_a_restart_before_the_first_checkpoint_begins_as_asked(output: Path, tmp_path: Path) -> None:
    assert begin(tmp_path / "new", None, restarted=True) is None
    path = str(output / "checkpoint-20")
    assert begin(tmp_path / "new", path, restarted=True) == output / "checkpoint-20"


def test_another_training_is_refused_by_the_checkpoint_s_name(output: Path) -> None:
    with pytest.raises(ResumeMismatchError, match=r"(?s)checkpoint-30: .*learning_rate: 0\.1 in .*, 0\.2 now"):
        check_identity(output / "checkpoint-30", identity(rate=0.2))


def test_another_thread_count_is_said(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check_identity(output / "checkpoint-30", identity(threads=2))
    assert "threads: 1 in the checkpoint, 2 now" in capsys.readouterr().err


def test_two_runs_cannot_share_a_folder(tmp_path: Path) -> None:
    with (
        run_lock(tmp_path / "output"),
        pytest.raises(FolderInUseError, match=rf"process {os.getpid()} on .* is training here") as caught,
        run_lock(tmp_path / "output"),
    ):
        pass
    assert caught.value.exit_code == 3
    with run_lock(tmp_path / "output"):
        pass


def test_the_lock_of_a_killed_process_holds_nobody_up(tmp_path: Path) -> None:
    program = "import os, sys\nfrom pathlib import Path\nfrom finetune.train.checkpoint.lock import run_lock\n"
    program += "with run_lock(Path(sys.argv[1])):\n    print('locked', flush=True)\n    sys.stdin.read()\n"
    arguments = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert first_line(other.stdout or []) == "locked\n"
        with pytest.raises(FolderInUseError, match=f"process {other.pid} on "), run_lock(tmp_path):
            pass
        other.kill()
        other.wait()
        with run_lock(tmp_path):
            pass


def first_line(lines: Iterable[str]) -> str:
    return next(iter(lines))
