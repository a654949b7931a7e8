"""A Config is frozen, knows where its values came from, and survives being written down."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from finetune.config.arguments import count_steps
from finetune.config.load import load_config, parse_config
from finetune.config.schema import Config
from finetune.errors import ConfigError

HERE = Path(__file__).parent
FILES = [*sorted(HERE.rglob("*/*.yaml")), *sorted((HERE.parents[1] / "configs").rglob("*.yaml"))]
Load = Callable[..., Config]


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_as_yaml_reads_back_to_an_equal_config(path: Path) -> None:
    config = load_config(path)
    written = json.loads(json.dumps(config.as_yaml()))
    again = parse_config(written, "run.json")
    assert again == config
    assert again.as_yaml() == written


def test_as_yaml_has_the_yamls_shape(load: Load) -> None:
    values = load("training_args: {max_steps: 3}\npeft_config: {peft_type: LORA}").as_yaml()
    assert values["training_args"]["max_steps"] == 3
    assert values["training_args"]["generation_config"]["max_new_tokens"] == 512
    assert values["model_config"]["freeze"] is None
    assert values["peft_config"]["r"] == 8


def test_mistakes_in_what_was_written_down_are_told_with_its_name() -> None:
    with pytest.raises(ConfigError, match=r"^run.json: max_input_length: expected a value above 0, found 0$"):
        parse_config({"data_config": {"train_file": "a"}, "max_input_length": 0}, "run.json")


def test_nobody_writes_to_a_config(load: Load) -> None:
    config = load()
    with pytest.raises(ValidationError):
        config.max_input_length = 5
    with pytest.raises(ValidationError):
        config.training_args.optimizer.learning_rate = 5.0


def test_configs_are_equal_when_they_ask_for_the_same(load: Load) -> None:
    assert load("max_input_length: 512") == load()
    assert load("max_input_length: 513") != load()


def test_origins_tell_file_and_line_and_are_silent_about_defaults(load: Load, tmp_path: Path) -> None:
    config = load("training_args:\n  max_steps: 3\ncombine: true", ["run.on_nonfinite=skip"])
    file = tmp_path / "c.yaml"
    assert dict(config.origins) == {
        "data_config.train_file": f"{file}:1",
        "data_config.val_file": f"{file}:1",
        "data_config.test_file": f"{file}:1",
        "data_config.train_on": f"{file}:4",
        "training_args.max_steps": f"{file}:3",
        "run.on_nonfinite": "--set",
    }


@pytest.mark.parametrize(
    ("text", "value"),
    [("5e-4", 5e-4), ("5E-4", 5e-4), ("1", 1.0), ("1.e-3", 1e-3), ("+0.5", 0.5), ("1e1", 10.0)],
)
def test_a_number_is_what_yaml_1_2_calls_one(load: Load, text: str, value: float) -> None:
    assert load(f"training_args: {{learning_rate: {text}}}").training_args.optimizer.learning_rate == value


def test_a_merged_map_gives_way_to_the_keys_beside_it(load: Load) -> None:
    config = load("run: {<<: {conversations_per_step: 5, on_nonfinite: stop}, on_nonfinite: skip}")
    assert config.run.conversations_per_step == 5
    assert config.run.on_nonfinite == "skip"


def test_an_alias_is_what_it_stands_for(load: Load) -> None:
    config = load("max_input_length: &n 7\nmax_output_length: *n")
    assert (config.max_input_length, config.max_output_length) == (7, 7)


def test_answers_may_be_as_long_as_max_output_length_says(load: Load) -> None:
    def new_tokens(text: str) -> int:
        return load(text).training_args.evaluation.generation_config.max_new_tokens

    assert new_tokens("max_output_length: 77") == 77
    assert new_tokens("max_output_length: 77\ntraining_args: {generation_config: {num_beams: 2}}") == 77
    assert new_tokens("max_output_length: 77\ntraining_args: {generation_config: {max_new_tokens: 9}}") == 9


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("none", ()),
        ("null", ()),
        ("[]", ()),
        ("all", ("all",)),
        ("tensorboard", ("tensorboard",)),
        ("[wandb, swanlab]", ("wandb", "swanlab")),
    ],
)
def test_report_to_takes_a_name_or_a_list(load: Load, written: str, read: tuple[str, ...]) -> None:
    assert load(f"training_args: {{report_to: {written}}}").training_args.logging.report_to == read


def test_evaluations_come_every_logging_steps_where_eval_steps_is_not_given(load: Load) -> None:
    assert load("training_args: {logging_steps: 20}").training_args.steps_between_evaluations == 20
    assert (
        load("training_args: {logging_steps: 20, eval_steps: 0.1}").training_args.steps_between_evaluations
        == 0.1
    )


def test_a_share_of_steps_is_rounded_up() -> None:
    assert [count_steps(steps, 15) for steps in (0.1, 0.5, 1, 20)] == [2, 8, 1, 20]


@pytest.mark.parametrize(
    ("args", "metric", "higher"),
    [
        ("{}", None, False),
        ("{load_best_model_at_end: true, eval_strategy: steps}", "eval_loss", False),
        ("{metric_for_best_model: rouge-l, predict_with_generate: true}", "eval_rouge-l", True),
        ("{metric_for_best_model: eval_loss}", "eval_loss", False),
        ("{metric_for_best_model: loss, greater_is_better: true}", "eval_loss", True),
    ],
)
def test_the_best_checkpoint_is_chosen_as_transformers_does(
    load: Load, args: str, metric: str | None, higher: bool
) -> None:
    saving = load(f"training_args: {args}").training_args.saving
    assert saving.best_metric == metric
    assert saving.higher_is_best is higher


@pytest.mark.parametrize(
    ("text", "warned"),
    [
        (
            "training_args: {lr_scheduler_type: cosine_with_min_lr, lr_scheduler_kwargs: {min_lr: 0.1}}",
            ["2:86: training_args.lr_scheduler_kwargs.min_lr: is above learning_rate (5e-05): the rate rises"],
        ),
        (
            "training_args: {lr_scheduler_type: cosine_with_min_lr, lr_scheduler_kwargs: {min_lr_rate: 1.5}}",
            ["2:91: training_args.lr_scheduler_kwargs.min_lr_rate: is above 1"],
        ),
        (
            "training_args: {warmup_steps: 100, max_steps: 100}",
            ["2:31: training_args.warmup_steps: the run ends before its warm-up does: learning_rate is never"],
        ),
        ("training_args: {warmup_steps: 99, max_steps: 100}", []),
        ("training_args: {warmup_steps: 0.5, max_steps: 1}", []),
        ("training_args: {warmup_steps: 1000}", []),
        (
            "training_args: {learning_rate: 1, lr_scheduler_type: cosine_with_min_lr,\n"
            "  lr_scheduler_kwargs: {min_lr: 0.1}}",
            [],
        ),
    ],
)
def test_what_is_hardly_meant_is_a_warning_at_its_place(
    text: str, warned: list[str], load: Callable[..., Config], tmp_path: Path
) -> None:
    found = [line.removeprefix(f"{tmp_path}/c.yaml:") for line in load(text).warnings]
    assert len(found) == len(warned)
    assert all(line.startswith(wanted) for line, wanted in zip(found, warned, strict=True)), found
