"""Keys that are each fine and cannot both hold are refused before anything is loaded."""

from collections.abc import Callable

import pytest

from finetune.config.schema import Config, DataConfig

Load = Callable[..., Config]
Mistakes = Callable[..., list[str]]

EVALUATED = "eval_strategy: steps, eval_steps: 100"


def test_evaluation_needs_something_to_evaluate_on(refusal: Mistakes) -> None:
    text = "data_config: {train_file: a}\ntraining_args: {eval_strategy: epoch, predict_with_generate: true}\n"
    assert refusal(text) == [
        "c.yaml:2:17: training_args.eval_strategy: there is nothing to evaluate on; give data_config.val_file"
    ]


@pytest.mark.parametrize(("test_file", "lines"), [(None, 1), ("t.jsonl", 0)])
def test_generating_without_an_evaluation_is_a_line_and_no_mistake(test_file: str | None, lines: int) -> None:
    data = DataConfig(train_file="a", test_file=test_file)
    config = Config(data_config=data, training_args={"predict_with_generate": True})
    expected = "training_args.predict_with_generate has no effect: nothing is ever evaluated"
    assert len(config.notices) == lines
    assert all(notice.startswith(expected) for notice in config.notices)


def test_a_conflict_that_rests_on_a_wrong_value_is_not_told(mistakes: Mistakes) -> None:
    (line,) = mistakes("training_args: {eval_strategy: stepz, load_best_model_at_end: true}")
    assert "eval_strategy: expected one of" in line


@pytest.mark.parametrize(
    "text",
    [
        f"training_args: {{{EVALUATED}, load_best_model_at_end: true, save_steps: 300}}",
        "training_args: {eval_strategy: steps, eval_steps: 0.1, load_best_model_at_end: true, save_steps: 0.3}",
        "training_args: {eval_strategy: epoch, save_strategy: epoch, load_best_model_at_end: true}",
        f"training_args: {{{EVALUATED}, save_strategy: best, metric_for_best_model: eval_loss}}",
        f"training_args: {{{EVALUATED}, predict_with_generate: true, metric_for_best_model: rouge-l}}",
        "training_args: {lr_scheduler_type: cosine_with_min_lr, lr_scheduler_kwargs: {min_lr: 1e-6}}",
        "model_config: {quantization: nf4, adapter: some/adapter}",
        "training_args: {predict_with_generate: true}",
        "training_args: {deepspeed: ds_zero_3.json, optim: adamw_torch}",
        "training_args: {fsdp: true, optim: sgd, optim_args: momentum=0.9}",
        "training_args: {deepspeed: {zero_optimization: {stage: 0}}, optim: adafactor}",
        "training_args: {fsdp: false, optim: paged_adamw_8bit}",
        "training_args: {deepspeed: ds_zero_2.json}\nmodel_config: {quantization: nf4}\n"
        "peft_config: {peft_type: LORA}",
    ],
)
def test_what_agrees_is_accepted(load: Load, text: str) -> None:
    load(text)
