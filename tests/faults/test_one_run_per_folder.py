"""Two real runs in one folder; checkpoints from another step, run or folder; settings that changed."""

import os
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.faults.runs import OFTEN, STEPS, Prepare, Run, assert_same_end, at_call, content
from tests.train.conftest import LORA, Configure


@pytest.fixture
def straight(small: Path, data: Path, configure: Configure) -> Run:
    """A run that nothing happened to; it keeps checkpoint-10 and checkpoint-12."""
    return Run(data, small, configure(LORA, "straight", **OFTEN), data.parent / "straight").finished()


@pytest.fixture
def run(small: Path, data: Path, configure: Configure) -> Run:
    """The same, not yet started."""
    return Run(data, small, configure(LORA, "run", **OFTEN), data.parent / "run")


@pytest.fixture
def copied(straight: Run, run: Run) -> Run:
    """The same, finished."""
    shutil.copytree(straight.output, run.output)
    return run


def waiting_for(go: Path) -> Prepare:
    """Stop in step 5 until that file is there."""

    def wait() -> None:
        while not go.exists():
            time.sleep(0.01)

    return at_call("finetune.train.loop", "collate", 5, wait)


def test_a_second_run_is_refused_by_name_and_does_not_disturb_the_first(straight: Run, run: Run) -> None:
    go = run.config.with_name("go")
    first = run.start(prepare=waiting_for(go)).saying("HERE")
    before = content(run.output)
    second = Run(run.data, run.model, run.config, run.output / ".." / "run")  # another spelling of it
    for number, resume in enumerate((None, "yes", "no", "4")):
        child = second.start(resume, log=run.config.with_name(f"second-{number}.log"))
        assert child.wait() == 3
        assert f"process {first.pid} on {socket.gethostname()} is training here" in child.said
        assert content(run.output) == before
    go.touch()
    assert first.wait() == 0, first.said[-3000:]
    assert_same_end(run.output, straight.output)


def test_of_runs_that_start_together_one_trains(straight: Run, run: Run) -> None:
    for _ in range(3):
        go = run.config.with_name("go")
        logs = [run.config.with_name(f"{number}.log") for number in range(3)]
        children = [run.start(prepare=waiting_for(go), log=log) for log in logs]
        while sum("is training here" in child.said for child in children) < 2:
            time.sleep(0.01)
        go.touch()
        codes = [child.wait() for child in children]
        assert sorted(codes) == [0, 3, 3], [child.said[-1000:] for child in children]
        assert_same_end(run.output, straight.output)
        shutil.rmtree(run.output)
        go.unlink()


def test_the_lock_of_a_killed_run_is_no_obstacle(straight: Run, run: Run) -> None:
    first = run.start(prepare=at_call("finetune.train.loop", "collate", 6, lambda: time.sleep(60)))
    assert first.saying("HERE").kill_after(0) == -9
    assert f"process {first.pid} on " in (run.output / ".lock").read_text()
    assert "going on from" in run.to_the_end().said
    assert_same_end(run.output, straight.output)


def manifest_of_another_step(run: Run, other: Path) -> None:
    shutil.copy(run.output / "checkpoint-10" / "manifest.json", run.output / "checkpoint-12")


def manifest_of_another_run(run: Run, other: Path) -> None:
    shutil.copy(other / "checkpoint-12" / "manifest.json", run.output / "checkpoint-12")


def state_of_another_step(run: Run, other: Path) -> None:
    state = [run.output / f"checkpoint-{step}" / "training_state.safetensors" for step in (10, 12)]
    assert state[0].stat().st_size == state[1].stat().st_size
    shutil.copy(*state)


def model_of_another_run(run: Run, other: Path) -> None:
    name = "checkpoint-12/adapter_model.safetensors"
    assert (other / name).stat().st_size == (run.output / name).stat().st_size
    shutil.copy(other / name, run.output / name)


def another_name(run: Run, other: Path) -> None:
    (run.output / "checkpoint-12").rename(run.output / "checkpoint-14")


def names_that_changed_places(run: Run, other: Path) -> None:
    shutil.copytree(run.output / "checkpoint-10", run.output / "checkpoint-14")
    shutil.rmtree(run.output / "checkpoint-12")


def an_empty_folder(run: Run, other: Path) -> None:
    (run.output / "checkpoint-99").mkdir()


def no_manifest(run: Run, other: Path) -> None:
    shutil.copytree(run.output / "checkpoint-12", run.output / "checkpoint-99")
    (run.output / "checkpoint-99" / "manifest.json").unlink()


def half_a_state(run: Run, other: Path) -> None:
    path = run.output / "checkpoint-12" / "training_state.safetensors"
    os.truncate(path, path.stat().st_size // 2)


Damage = Callable[[Run, Path], None]
DAMAGE: list[tuple[Damage, int, int, str]] = [
    (manifest_of_another_step, 12, 10, "checkpoint-12/manifest.json: belongs to step 10, not to checkpoint-12"),
    (manifest_of_another_run, 12, 10, "checkpoint-12/"),
    (state_of_another_step, 12, 10, "checkpoint-12/training_state.safetensors: damaged: its sha256 is not"),
    (model_of_another_run, 12, 10, "checkpoint-12/adapter_model.safetensors: damaged: its sha256 is not"),
    (another_name, 14, 10, "checkpoint-14/manifest.json: belongs to step 12, not to checkpoint-14"),
    (names_that_changed_places, 14, 10, "checkpoint-14/manifest.json: belongs to step 10, not to"),
    (half_a_state, 12, 10, "checkpoint-12/training_state.safetensors: "),
    (an_empty_folder, 99, 12, "checkpoint-99/manifest.json: No such file or directory: the checkpoint was"),
    (no_manifest, 99, 12, "checkpoint-99/manifest.json: No such file or directory: the checkpoint was"),
]


@pytest.fixture
def other(small: Path, data: Path, configure: Configure) -> Path:
    """The folder of a run of the same shape with another seed."""
    config = configure(LORA, "other", **OFTEN, seed=7)
    return Run(data, small, config, data.parent / "other").finished().output


def test_a_bad_checkpoint_is_set_aside_and_the_last_good_one_goes_on(
    copied: Run, straight: Run, other: Path
) -> None:
    for damage, step, good, why in DAMAGE:
        damage(copied, other)
        child = copied.to_the_end()
        warnings = [line for line in child.said.splitlines() if line.startswith("warning: ")]
        assert len(warnings) == 1, damage.__name__
        assert why in warnings[0] and f"; renamed rejected-{step}-" in warnings[0], warnings
        assert f"going on from {copied.output}/checkpoint-{good}\n" in child.said
        (rejected,) = copied.output.glob("rejected-*")
        assert rejected.name.startswith(f"rejected-{step}-")
        shutil.rmtree(rejected)
        assert_same_end(copied.output, straight.output)
        shutil.rmtree(copied.output)
        shutil.copytree(straight.output, copied.output)
    print(f"{len(DAMAGE)} kinds of damage to a real run")


def tree(output: Path) -> dict[str, Any]:
    """Everything in a folder but the lock, with its times."""
    return {
        str(path): (path.stat().st_mtime_ns, path.stat().st_ino, path.read_bytes() if path.is_file() else b"")
        for path in sorted(output.rglob("*"))
        if path.name != ".lock"
    }


def test_yes_with_only_bad_checkpoints_changes_nothing(copied: Run, straight: Run, other: Path) -> None:
    manifest_of_another_step(copied, other)
    (copied.output / "checkpoint-10" / "training_state.json").unlink()
    before = tree(copied.output)
    for _ in range(2):
        child = copied.start()
        assert child.wait() == 4
        assert "no checkpoint can be resumed; RESUME no begins again" in child.said
        assert "checkpoint-12/manifest.json: belongs to step 10" in child.said
        assert "checkpoint-10/training_state.json: missing" in child.said
        assert tree(copied.output) == before
    copied.to_the_end("no")
    assert_same_end(copied.output, straight.output)
    (old,) = copied.output.glob("old-*")
    assert {"checkpoint-10", "checkpoint-12"} < {path.name for path in old.iterdir()}


def test_a_whole_checkpoint_of_another_run_is_not_taken_for_this_one_s(copied: Run, other: Path) -> None:
    shutil.rmtree(copied.output / "checkpoint-12")
    shutil.copytree(other / "checkpoint-12", copied.output / "checkpoint-12")
    before = tree(copied.output)
    child = copied.start()
    assert child.wait() == 5
    assert "checkpoint-12: " in child.said and "training_args.seed: 7 in the checkpoint, 42 now" in child.said
    assert tree(copied.output) == before


def change(config: Path, changes: dict[str, Any]) -> None:
    """Set `section.key` of a YAML."""
    content = YAML().load(config)
    for dotted, value in changes.items():
        section, _, key = dotted.rpartition(".")
        (content.setdefault(section, {}) if section else content)[key] = value
    YAML().dump(content, config)


def test_every_setting_that_touches_the_result_is_named_at_once_and_the_others_may_change(
    copied: Run, straight: Run
) -> None:
    whole = copied.config.read_text()
    before = tree(copied.output)
    changes: dict[str, Any] = {
        "training_args.learning_rate": 0.02,
        "training_args.lr_scheduler_type": "constant",
        "training_args.optim": "sgd",
        "training_args.weight_decay": 0.1,
        "training_args.max_grad_norm": 0.5,
        "training_args.warmup_steps": 3,
        "training_args.label_smoothing_factor": 0.1,
        "training_args.seed": 1,
        "training_args.data_seed": 2,
        "training_args.per_device_train_batch_size": 3,
        "training_args.max_steps": STEPS - 1,
        "peft_config.r": 8,
        "peft_config.lora_dropout": 0.1,
        "peft_config.target_modules": ["o_proj"],
        "model_config.dtype": "bfloat16",
        "max_input_length": 400,
        "data_config.train_on": "last",
        "data_config.thinking": "drop",
        "data_config.overflow": "truncate-left",
    }
    change(copied.config, changes)
    rows = copied.data / "train.jsonl"
    as_it_was = rows.read_text()
    rows.write_text(as_it_was.replace("river", "stone"))
    child = copied.start()
    assert child.wait() == 5
    told = {
        "training_args.per_device_train_batch_size": "conversations_per_step: 4 in the checkpoint, 6 now",
        "training_args.max_steps": "steps: 12 in the checkpoint, 11 now",
    }
    for key in changes:
        assert f"  {told.get(key, f'{key}: ')}" in child.said, key
    assert "  data: sha256 " in child.said
    assert tree(copied.output) == before
    rows.write_text(as_it_was)
    copied.config.write_text(whole)
    free = {
        "training_args.save_steps": 3,
        "training_args.save_total_limit": 4,
        "training_args.logging_steps": 5,
        "training_args.eval_steps": 5,
        "training_args.predict_with_generate": True,
        "data_config.num_proc": 2,
        "data_config.test_file": None,
        "run.auto_fit": True,
        "run.on_nonfinite": "skip",
        "evaluation.turns": "last",
    }
    change(copied.config, free)
    shutil.rmtree(copied.output / "checkpoint-12")
    copied.to_the_end()
    ended, wanted = (content(run.output / "checkpoint-12") for run in (copied, straight))
    assert ended == wanted
    print(f"{len(changes) + 1} changes named, {len(free)} free ones go on to the same bytes")


SECRET = "hf_aVeryPrivateTokenOfSomebody123"


@pytest.mark.parametrize("kill", [False, True])
def test_secrets_of_the_environment_reach_no_file(
    kill: bool, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        "WANDB_API_KEY",
        "AWS_SECRET_ACCESS_KEY",
        "MASTER_PASSWORD",
    ):
        monkeypatch.setenv(name, SECRET)
    run.config.write_text(f"# {SECRET}\n{run.config.read_text()}# {SECRET}\n")
    if kill:
        child = run.start(prepare=at_call("finetune.train.checkpoint.save", "write_state", 2, lambda: 1 / 0))
        assert child.wait() == 1
    else:
        child = run.to_the_end()
    files = content(run.output)
    assert len(files) > 8
    assert [name for name, whole in files.items() if SECRET.encode() in whole] == []
    assert SECRET not in child.said


@pytest.mark.parametrize(
    "key",
    [
        "training_args.hub_token",
        "training_args.push_to_hub_token",
        "training_args.hf_token",
        "training_args.wandb_api_key",
        "model_config.token",
        "model_config.use_auth_token",
        "data_config.token",
        "run.api_key",
        "hf_hub_token",
    ],
)
def test_a_secret_where_no_key_is_known_is_refused_and_not_repeated(key: str, run: Run) -> None:
    change(run.config, {key: SECRET})
    child = run.start()
    assert child.wait() == 2
    assert key.rpartition(".")[2] in child.said
    assert SECRET not in child.said
    assert not run.output.exists()
