"""What a DeepSpeed file says against the YAML is told at its own line; refused.txt has a map's cases."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune.config import deepspeed_keys
from finetune.config.deepspeed import fill
from finetune.config.schema import Config, TrainingArgs

Load = Callable[..., Config]
Mistakes = Callable[..., list[str]]

WRONG = """\
{
\t"gradient_accumulation_steps": 2,
\t"gradient_clipping": "auto",
\t"bf16": {"enabled": false, "enabled": true},
\t"fp16": {
\t\t"enabled": true
\t},
\t"zero_optimization": {"stage": 2, "overlap_com": true}
}
"""


def test_mistakes_of_a_file_stand_at_its_own_lines_below_those_of_the_yaml(
    refusal: Mistakes, tmp_path: Path
) -> None:
    (tmp_path / "ds.json").write_text(WRONG)
    text = "data_config: {train_file: a}\n\n\ntraining_args: {deepspeed: ds.json, max_steps: x}\n"
    assert refusal(text) == [
        'c.yaml:4:48: training_args.max_steps: expected a whole number, found the text "x"',
        "ds.json:2:33: gradient_accumulation_steps: is 2, training_args.gradient_accumulation_steps is 1; "
        'write "auto"',
        "ds.json:4:29: bf16.enabled: given twice, first at ds.json:4:11; remove one",
        "ds.json:6:14: fp16.enabled: float16 gradients underflow without loss scaling, "
        "which finetune does not do; use bf16",
        "ds.json:8:36: zero_optimization.overlap_com: unknown key; did you mean overlap_comm?",
    ]


def test_an_override_that_disagrees_with_a_file_is_met_in_the_file(mistakes: Mistakes) -> None:
    text = "training_args: {deepspeed: {gradient_clipping: 1.0}}"
    (line,) = mistakes(text, ["training_args.max_grad_norm=0.5"])
    assert line.startswith("c.yaml:2:48: training_args.deepspeed.gradient_clipping: is 1.0, ")


def test_a_map_given_on_the_command_line_is_checked_too(mistakes: Mistakes) -> None:
    given = "training_args.deepspeed={gradient_clipping: 2}"
    (line,) = mistakes("", [given])
    assert line.startswith(f"--set {given}: training_args.deepspeed.gradient_clipping: is 2, ")


@pytest.mark.parametrize(
    "deepspeed",
    [
        "{}",
        "{gradient_clipping: 1, gradient_accumulation_steps: 1, train_micro_batch_size_per_gpu: 8}",
        "{train_batch_size: 8}",
        "{train_batch_size: auto, bf16: {enabled: true}, fp16: {enabled: auto, loss_scale: 0}}",
        "{optimizer: {type: adamw, params: {lr: 5e-5, betas: [0.9, auto], torch_adam: true}}}",
        "{optimizer: {params: {adam_w_mode: true, eps: 1e-8, weight_decay: 0}}}",
        "{scheduler: {type: WarmupLR, params: {warmup_min_lr: 0, warmup_max_lr: auto, warmup_num_steps: 0}}}",
        "{autotuning: {enabled: false}, data_efficiency: {}, gradient_allreduce_op: mean}",
        "{data_types: {keep_in_fp32_modules: auto}, zero_allow_untested_optimizer: true}",
        "{zero_optimization: {stage: 3, offload_param: {device: cpu}, reduce_bucket_size: auto}}",
    ],
)
def test_what_agrees_is_accepted_and_can_be_filled(load: Load, deepspeed: str) -> None:
    args = load(f"training_args: {{deepspeed: {deepspeed}}}").training_args
    value = args.placement.deepspeed
    assert value is not None
    fill(value, args, bf16=False, hidden_size=64, world_size=1)


def test_a_wrong_value_of_the_yaml_is_told_alone(mistakes: Mistakes) -> None:
    (line,) = mistakes("training_args: {max_grad_norm: much, deepspeed: {gradient_clipping: 1.0}}")
    assert "training_args.max_grad_norm: expected a number" in line


class Asked(dict[str, Any]):
    """A map that remembers which keys it was asked for."""

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        self.asked: set[object] = set()

    def get(self, key: Any, default: Any = None) -> Any:
        self.asked.add(key)
        return super().get(key, default)

    def __contains__(self, key: object) -> bool:
        self.asked.add(key)
        return super().__contains__(key)

    def keys(self) -> Any:
        return self

    def __copy__(self) -> "Asked":
        return self


def test_the_keys_are_those_that_deepspeed_itself_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("deepspeed", reason="the extra `deepspeed` is not installed")
    from deepspeed.runtime.config import DeepSpeedConfig
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    config = Asked(train_micro_batch_size_per_gpu=1, gradient_accumulation_steps=1)
    DeepSpeedConfig(config)
    assert config.asked == deepspeed_keys.TOP_LEVEL | deepspeed_keys.GONE
    zero = {field.alias or name for name, field in DeepSpeedZeroConfig.model_fields.items()}
    assert zero == deepspeed_keys.ZERO


def test_a_filled_file_is_one_that_deepspeed_accepts() -> None:
    pytest.importorskip("deepspeed", reason="the extra `deepspeed` is not installed")
    from deepspeed.runtime.config import DeepSpeedConfig

    value: dict[str, Any] = {
        "zero_optimization": {"stage": 3, "reduce_bucket_size": "auto", "overlap_comm": True}
    }
    made = fill(value, TrainingArgs(), bf16=True, hidden_size=64, world_size=1)
    theirs = DeepSpeedConfig(made.content)
    assert theirs.zero_config.reduce_bucket_size == 4096
    assert (theirs.bfloat16_config.enabled, theirs.float16_config.enabled) == (True, False)
    assert (theirs.grad_accum_dtype, theirs.gradient_clipping) == ("fp32", 1.0)
    assert (theirs.train_micro_batch_size_per_gpu, theirs.gradient_accumulation_steps) == (1, 1)


def test_the_tables_do_not_overlap() -> None:
    assert not deepspeed_keys.TOP_LEVEL & deepspeed_keys.GONE
    levels = {1: deepspeed_keys.TOP_LEVEL, 2: deepspeed_keys.ZERO}
    for path in [*deepspeed_keys.NOT_BUILT, *deepspeed_keys.FIXED]:
        assert path[-1] in levels[len(path)]
