"""Keys of older days: mapped, told to have no effect, or refused; one line each."""

from collections.abc import Callable

import pytest

from finetune.config.schema import Config

Load = Callable[..., Config]
Mistakes = Callable[..., list[str]]

RENAMED = [
    ("evaluation_strategy: steps", "eval_strategy", "steps"),
    ("no_cuda: true", "use_cpu", True),
    ("per_gpu_train_batch_size: 3", "per_device_train_batch_size", 3),
    ("per_gpu_eval_batch_size: 3", "per_device_eval_batch_size", 3),
    ("activation_checkpointing: true", "gradient_checkpointing", True),
    ("warmup_ratio: 0.1", "warmup_steps", 0.1),
    ("adafactor: true", "optim", "adafactor"),
    ("xpu_backend: gloo", "ddp_backend", "gloo"),
]


@pytest.mark.parametrize(("line", "key", "value"), RENAMED)
def test_an_old_name_is_read_as_the_new_one_and_said_once(
    load: Load, line: str, key: str, value: object
) -> None:
    config = load(f"training_args:\n  {line}")
    assert config.as_yaml()["training_args"][key] == value
    assert len(config.notices) == 1
    assert line.split(":")[0] in config.notices[0]
    assert key in config.notices[0]
    assert config.origins[f"training_args.{key}"].endswith("c.yaml:3")


def test_torch_dtype_is_dtype(load: Load) -> None:
    config = load("model_config: {torch_dtype: bfloat16}")
    assert config.model.dtype == "bfloat16"
    assert len(config.notices) == 1


def test_num_beams_moves_into_generation_config(load: Load) -> None:
    config = load("training_args: {generation_num_beams: 4}")
    assert config.training_args.evaluation.generation_config.num_beams == 4
    assert len(config.notices) == 1


NO_EFFECT = [
    "dataloader_num_workers: 16",
    "dataloader_pin_memory: false",
    "remove_unused_columns: false",
    "overwrite_output_dir: true",
    "save_safetensors: null",
    "logging_dir: ./logs",
    "group_by_length: true",
    "do_train: true",
    "label_names: [labels]",
    "disable_tqdm: true",
]


@pytest.mark.parametrize("line", NO_EFFECT)
def test_a_harmless_key_is_accepted_with_one_line(load: Load, line: str) -> None:
    config = load(f"training_args:\n  {line}")
    assert [line.split(":")[0] in notice and "no effect" in notice for notice in config.notices] == [True]


@pytest.mark.parametrize(
    "line",
    [
        "dataloader_num_workers: 0",
        "remove_unused_columns: true",
        "push_to_hub: false",
        "save_safetensors: true",
    ],
)
def test_a_key_at_its_own_default_is_accepted_in_silence(load: Load, line: str) -> None:
    assert load(f"training_args:\n  {line}").notices == ()


@pytest.mark.parametrize(
    ("top", "train_on", "freeze"),
    [
        ("combine: true", "last", None),
        ("combine: false", "all", None),
        ("freezeV: true", "all", ("vision",)),
        ("freezeV: false", "all", ()),
    ],
)
def test_the_demos_own_keys_map_to_sections(
    load: Load, top: str, train_on: str, freeze: tuple[str, ...] | None
) -> None:
    config = load(top)
    assert config.data_config.train_on == train_on
    assert config.model.freeze == freeze
    assert len(config.notices) == 1


REFUSED = [
    (
        "training_args: {eval_strategy: steps, evaluation_strategy: steps}",
        "c.yaml:2:39: training_args.evaluation_strategy: means eval_strategy, which is given too; "
        "remove one of them",
    ),
    (
        "training_args: {warmup_ratio: 10.0}",
        "c.yaml:2:31: training_args.warmup_ratio: expected a share below 1, found 10.0; "
        "a count of steps is warmup_steps",
    ),
    (
        "training_args: {save_safetensors: false}",
        "c.yaml:2:35: training_args.save_safetensors: weights are always saved as safetensors; remove it",
    ),
    (
        "combine: yes",
        'c.yaml:2:10: combine: expected true or false, found the text "yes"; YAML 1.2 writes true',
    ),
    ("freezeV: 1", "c.yaml:2:10: freezeV: expected true or false, found 1; write true"),
    (
        "combine: true\nmodel_config: {torch_dtype: int3}",
        "c.yaml:3:29: model_config.dtype: expected one of auto, float32, bfloat16, float16, "
        'found the text "int3"',
    ),
    (
        "training_args: {warmup_ratio: much}",
        'c.yaml:2:31: training_args.warmup_steps: expected a number, found the text "much"',
    ),
]


@pytest.mark.parametrize(("text", "message"), REFUSED)
def test_an_old_key_with_an_impossible_value_is_refused_where_it_stands(
    mistakes: Mistakes, text: str, message: str
) -> None:
    assert mistakes(text) == [message]


def test_an_override_wins_over_an_old_name_in_the_file(load: Load) -> None:
    config = load(
        "training_args: {evaluation_strategy: steps}",
        ["training_args.eval_strategy=epoch"],
    )
    assert config.training_args.evaluation.eval_strategy == "epoch"


def test_an_old_name_in_an_override_wins_over_the_file(load: Load) -> None:
    config = load(
        "training_args: {eval_strategy: steps}",
        ["training_args.evaluation_strategy=epoch"],
    )
    assert config.training_args.evaluation.eval_strategy == "epoch"


def test_a_warmup_ratio_beside_warmup_steps_of_0_is_the_one_that_counts(load: Load) -> None:
    config = load("training_args: {warmup_steps: 0, warmup_ratio: 0.1}")
    assert config.training_args.schedule.warmup_steps == 0.1
