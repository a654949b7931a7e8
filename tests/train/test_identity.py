"""What may change between the runs of one training, and what may not."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finetune.base import base_identity
from finetune.errors import ResumeMismatchError
from finetune.train.checkpoint.identity import (
    Identity,
    compare,
    kept_conversations_per_step,
    what_matters,
)

CONFIG: dict[str, Any] = {
    "data_config": {"train_file": "train.jsonl", "val_file": None, "num_proc": 1, "train_on": "all"},
    "max_input_length": 512,
    "model_config": {"dtype": "bfloat16", "attention": "auto", "chat_template": None},
    "peft_config": {"peft_type": "LORA", "r": 8, "target_modules": ["q_proj", "v_proj"]},
    "training_args": {
        "output_dir": "./output",
        "learning_rate": 5e-4,
        "max_steps": 100,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 4,
        "per_device_eval_batch_size": 4,
        "save_steps": 10,
        "logging_steps": 1,
        "eval_steps": 10,
        "seed": 42,
        "deepspeed": None,
        "generation_config": {"max_new_tokens": 8},
    },
    "run": {"tokens_per_micro_batch": "auto", "conversations_per_step": None},
    "evaluation": {"turns": "all"},
}


ENVIRONMENT = {"world_size": 1, "threads": 1, "device": "cpu", "versions": {"torch": "2.13.0"}}


def identity(config: dict[str, Any] = CONFIG, **changes: Any) -> Identity:
    plain = Identity.of(
        config,
        data="a" * 64,
        template="t" * 64,
        base={"config.json": "c" * 64},
        conversations_per_step=8,
        steps=100,
        environment=ENVIRONMENT,
    )
    return replace(plain, **changes)


def with_key(dotted: str, value: Any) -> dict[str, Any]:
    """CONFIG with one key set otherwise."""
    section, _, key = dotted.partition(".")
    if not key:
        return {**CONFIG, section: value}
    return {**CONFIG, section: {**CONFIG[section], key: value}}


def check(now: Identity, saved: Identity | None = None) -> list[str]:
    return compare((saved or identity()).as_dict(), now.as_dict())


def test_the_same_run_matches_itself_silently() -> None:
    assert check(identity()) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("training_args.output_dir", "./elsewhere"),
        ("training_args.save_steps", 3),
        ("training_args.save_total_limit", 2),
        ("training_args.logging_steps", 5),
        ("training_args.report_to", ["tensorboard"]),
        ("training_args.run_name", "second"),
        ("training_args.eval_steps", 50),
        ("training_args.per_device_eval_batch_size", 16),
        ("training_args.generation_config", {"max_new_tokens": 512}),
        ("training_args.metric_for_best_model", "rouge-l"),
        ("training_args.use_cpu", True),
        ("training_args.gradient_checkpointing", True),
        ("training_args.deepspeed", "configs/ds_zero_2.json"),
        ("training_args.deepspeed", {"zero_optimization": {"stage": 2}}),
        ("training_args.max_steps", 200),
        ("training_args.num_train_epochs", 9.0),
        ("data_config.train_file", "/moved/train.jsonl"),
        ("data_config.val_file", "dev.jsonl"),
        ("data_config.num_proc", 8),
        ("data_config.image_roots", ["/pictures"]),
        ("data_config.allow_remote_images", True),
        ("model_config.attention", "single"),
        ("run.tokens_per_micro_batch", 4096),
        ("evaluation.turns", "last"),
    ],
)
def test_what_does_not_touch_the_result_may_change(key: str, value: object) -> None:
    assert check(identity(with_key(key, value))) == []


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        (
            "training_args.learning_rate",
            1e-4,
            "training_args.learning_rate: 0.0005 in the checkpoint, 0.0001 now",
        ),
        ("training_args.seed", 7, "training_args.seed: 42 in the checkpoint, 7 now"),
        ("training_args.weight_decay", 0.1, "training_args.weight_decay: nothing in the checkpoint, 0.1 now"),
        ("max_input_length", 1024, "max_input_length: 512 in the checkpoint, 1024 now"),
        ("data_config.train_on", "last", "data_config.train_on: all in the checkpoint, last now"),
        ("model_config.dtype", "float32", "model_config.dtype: bfloat16 in the checkpoint, float32 now"),
        ("peft_config.r", 16, "peft_config.r: 8 in the checkpoint, 16 now"),
        ("peft_config.target_modules", ["q_proj"], "peft_config.target_modules: ['q_proj', 'v_proj'] in"),
        ("peft_config", None, "peft_config.r: 8 in the checkpoint, nothing now"),
    ],
)
def test_what_touches_the_result_is_named_and_refused(key: str, value: object, line: str) -> None:
    with pytest.raises(ResumeMismatchError) as caught:
        check(identity(with_key(key, value)))
    assert line in str(caught.value)
    assert caught.value.exit_code == 5


def test_every_difference_is_named_at_once() -> None:
    now = replace(identity(with_key("training_args.seed", 7)), data="b" * 64, template="u" * 64, steps=50)
    with pytest.raises(ResumeMismatchError) as caught:
        check(now)
    for line in (
        "data: sha256 aaaaaaaaaaaa… in the checkpoint, sha256 bbbbbbbbbbbb… now",
        "template: sha256 tttttttttttt… in the checkpoint",
        "training_args.seed",
        "steps: 100 in the checkpoint, 50 now; only more are possible",
    ):
        assert line in str(caught.value)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"world_size": 2}, "world_size: 1 in the checkpoint, 2 now: "),
        ({"threads": 2}, "threads: 1 in the checkpoint, 2 now: "),
        ({"device": "NVIDIA H200"}, "device: cpu in the checkpoint, NVIDIA H200 now: "),
        ({"versions": {"torch": "2.14.0"}}, "versions.torch: 2.13.0 in the checkpoint, 2.14.0 now: "),
    ],
)
def test_what_touches_only_the_last_bits_is_said(change: dict[str, Any], line: str) -> None:
    (notice,) = check(identity(environment=ENVIRONMENT | change))
    assert line in notice


def test_more_processes_keep_the_size_of_the_step() -> None:
    saved, now = identity(), identity(environment=ENVIRONMENT | {"world_size": 2}, conversations_per_step=16)
    assert kept_conversations_per_step(saved.as_dict(), now.as_dict()) == 8
    assert [line[:10] for line in check(now)] == ["world_size"]


def test_batch_keys_may_change_where_the_step_stays_the_same() -> None:
    halved = with_key("training_args.gradient_accumulation_steps", 2)
    assert len(check(identity(halved, environment=ENVIRONMENT | {"world_size": 2}))) == 1
    with pytest.raises(ResumeMismatchError, match="conversations_per_step: 8 in the checkpoint, 4 now"):
        check(replace(identity(halved), conversations_per_step=4))


def test_weights_of_training_files_matter_and_their_paths_do_not() -> None:
    def files(*pairs: tuple[str, float]) -> Identity:
        return identity(with_key("data_config.train_file", [{"file": f, "weight": w} for f, w in pairs]))

    assert check(files(("c", 1.0), ("d", 2.0)), saved=files(("a", 1.0), ("b", 2.0))) == []
    with pytest.raises(ResumeMismatchError, match=r"data_config\.train_file\.1\.weight: 2\.0 in .*, 3\.0 now"):
        check(files(("a", 1.0), ("b", 3.0)), saved=files(("a", 1.0), ("b", 2.0)))


def test_free_keys_never_reach_a_manifest() -> None:
    config = with_key("training_args.run_name", "a private name")
    assert "a private name" not in str(identity(config).as_dict())
    assert "training_args.save_steps" not in what_matters(config)


def test_tuples_equal_the_lists_that_json_makes_of_them() -> None:
    assert check(identity(with_key("peft_config.target_modules", ("q_proj", "v_proj")))) == []


def make_base(folder: Path, weights: bytes) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "glm"}')
    (folder / "model.safetensors").write_bytes(weights)
    return folder


def test_a_base_model_is_known_by_its_content_not_its_place(tmp_path: Path) -> None:
    weights = bytes(range(256)) * 1000
    other = bytearray(weights)
    other[128_000 : 128_000 + 70_000] = bytes(70_000)
    first = base_identity(make_base(tmp_path / "a", weights))
    assert first == base_identity(make_base(tmp_path / "b", weights))
    assert first != base_identity(make_base(tmp_path / "c", weights + b"x"))
    assert first != base_identity(make_base(tmp_path / "d", bytes(other)))
    assert base_identity("org/name") == {"id": "org/name"}


def test_a_checkpoint_that_tells_no_samples_of_tensors_is_compared_by_what_it_tells() -> None:
    told = {"config.json": "c" * 64, "model.safetensors": "9 bytes, samples 1"}
    sampled = told | {"tensors": {"model.safetensors": "2"}}
    assert check(identity(base=sampled), saved=identity(base=told)) == []
    assert check(identity(base=sampled), saved=identity(base=sampled)) == []
    other = told | {"tensors": {"model.safetensors": "3"}}
    with pytest.raises(ResumeMismatchError, match=r"base\.tensors\.model\.safetensors: 2 in the checkpoint, 3"):
        check(identity(base=other), saved=identity(base=sampled))
