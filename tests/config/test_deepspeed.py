"""DeepSpeed's JSON: GLM-4's files become what DeepSpeed needs, and what contradicts the YAML is refused."""

import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from finetune.config.deepspeed import DeepSpeed, fill, read_deepspeed, wants_bf16, zero_stage
from finetune.config.load import find_shipped
from finetune.config.schema import Config, TrainingArgs
from finetune.errors import ConfigError

Load = Callable[..., Config]
Json = dict[str, Any]

ZERO_3_OF_2024: Json = {
    "train_micro_batch_size_per_gpu": "auto",
    "zero_allow_untested_optimizer": True,
    "bf16": {"enabled": "auto"},
    "fp16": {"enabled": "auto", "loss_scale": 0, "initial_scale_power": 16},
    "optimizer": {
        "type": "AdamW",
        "params": {"lr": "auto", "betas": "auto", "eps": "auto", "weight_decay": "auto"},
    },
    "scheduler": {"type": "WarmupLR", "params": {"warmup_max_lr": "auto", "warmup_num_steps": "auto"}},
    "zero_optimization": {
        "stage": 3,
        "allgather_bucket_size": 5e8,
        "overlap_comm": True,
        "reduce_bucket_size": "auto",
        "stage3_prefetch_bucket_size": "auto",
        "stage3_param_persistence_threshold": "auto",
        "stage3_max_live_parameters": 1e9,
        "stage3_gather_16bit_weights_on_model_save": True,
    },
}
"""In the manner of GLM-4's ds_zero_3.json: no gradient_accumulation_steps, no gradient_clipping."""


def filled(value: str | Json, bf16: bool = True, world_size: int = 2, **flat: Any) -> DeepSpeed:
    return fill(value, TrainingArgs(**flat), bf16=bf16, hidden_size=4096, world_size=world_size)


def autos(node: Any) -> Iterator[Any]:
    if isinstance(node, dict | list):
        for inner in node.values() if isinstance(node, dict) else node:
            yield from autos(inner)
    elif node == "auto":
        yield node


def test_the_zero_3_file_of_glm4_is_filled_with_what_transformers_would_put_there() -> None:
    made = filled(ZERO_3_OF_2024, gradient_accumulation_steps=8, max_grad_norm=0.5)
    assert (made.stage, made.offloads) == (3, False)
    assert made.content == {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.5,
        "bf16": {"enabled": True},
        "data_types": {"grad_accum_dtype": "fp32"},
        "steps_per_print": 10**12,
        "wall_clock_breakdown": False,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {
            "stage": 3,
            "allgather_bucket_size": 5e8,
            "overlap_comm": True,
            "reduce_bucket_size": 16_777_216,
            "stage3_prefetch_bucket_size": 15_099_494,
            "stage3_param_persistence_threshold": 40_960,
            "stage3_max_live_parameters": 1e9,
            "stage3_gather_16bit_weights_on_model_save": True,
        },
    }
    assert made.notices == (
        "deepspeed: gradient_accumulation_steps is 8, training_args.gradient_accumulation_steps",
        "deepspeed: gradient_clipping is 0.5, training_args.max_grad_norm",
        "deepspeed: the section optimizer (AdamW) is left out; training_args.optim (adamw_torch_fused) decides",
        "deepspeed: the section scheduler (WarmupLR) is left out; "
        "training_args.lr_scheduler_type (linear) decides",
    )


@pytest.mark.parametrize(("name", "stage"), [("ds_zero_2.json", 2), ("ds_zero_3.json", 3)])
def test_the_shipped_files_need_no_notice(name: str, stage: int) -> None:
    made = filled(str(find_shipped(name)), bf16=False)
    assert (made.stage, made.offloads, made.notices) == (stage, False, ())
    assert list(autos(made.content)) == []
    assert made.content["bf16"] == {"enabled": False}
    assert "data_types" not in made.content


def test_what_the_user_has_is_not_changed() -> None:
    mine = deepcopy(ZERO_3_OF_2024)
    filled(mine).content["zero_optimization"].clear()
    assert mine == ZERO_3_OF_2024


def test_what_the_user_states_is_kept() -> None:
    stated: Json = {
        "zero_optimization": {"stage": 2, "reduce_bucket_size": 500},
        "steps_per_print": 10,
        "wall_clock_breakdown": True,
        "data_types": {"grad_accum_dtype": "bf16"},
        "bf16": {"enabled": True, "check_grad_overflow": False},
        "communication_data_type": "fp32",
    }
    assert filled(stated).content.items() >= stated.items()


def test_without_zero_deepspeed_knows_no_wider_sum_of_gradients() -> None:
    made = filled({"gradient_clipping": "auto", "gradient_accumulation_steps": "auto"})
    assert made.stage == 0
    assert "data_types" not in made.content
    (notice,) = made.notices
    assert "adds up gradients in bfloat16" in notice


def test_bfloat16_is_deepspeeds_old_name_of_bf16() -> None:
    content = filled({"bfloat16": {"enabled": "auto"}}).content
    assert content["bf16"] == {"enabled": True}
    assert "bfloat16" not in content


@pytest.mark.parametrize(
    ("zero", "offloads", "forced"),
    [
        ({"offload_optimizer": {"device": "cpu"}}, True, False),
        ({"offload_optimizer": {"device": "nvme", "nvme_path": "/disk"}}, True, False),
        ({"cpu_offload": True}, True, False),
        ({"offload_param": {"device": "cpu"}}, True, None),
        ({"offload_optimizer": {"device": "none"}}, False, None),
        ({}, False, None),
    ],
)
def test_an_offloaded_optimizer_stays_torchs(zero: Json, offloads: bool, forced: bool | None) -> None:
    made = filled({"zero_optimization": {"stage": 3, **zero}})
    assert made.offloads is offloads
    assert made.content.get("zero_force_ds_cpu_optimizer") is forced
    assert any("torch's own" in notice for notice in made.notices) is (forced is False)


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ({"zero_optimization": {"stage3_max_live_parameters": "auto"}}, "stage3_max_live_parameters"),
        ({"zero_optimization": {"stage": "auto"}}, "zero_optimization.stage"),
        ({"communication_data_type": "auto"}, "communication_data_type"),
        ({"flops_profiler": {"modules": ["a", "auto"]}}, r"flops_profiler.modules\[1\]"),
    ],
)
def test_an_auto_that_nobody_knows_is_refused_by_name(value: Json, key: str) -> None:
    with pytest.raises(ConfigError, match=f'{key}: finetune does not know what "auto" is here'):
        filled(value)


def test_a_stated_batch_must_be_the_one_that_is_made() -> None:
    sizes = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
    assert "train_batch_size" not in filled({"train_batch_size": 16}, world_size=2, **sizes).content
    with pytest.raises(ConfigError, match="train_batch_size is 16, a step has 24 conversations"):
        filled({"train_batch_size": 16}, world_size=3, **sizes)


def test_conversations_per_step_are_the_batch_where_they_are_given() -> None:
    value, args = {"train_batch_size": 24}, TrainingArgs()
    made = fill(value, args, bf16=False, hidden_size=8, world_size=5, conversations_per_step=24)
    assert "train_batch_size" not in made.content


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ({}, None),
        ({"bf16": {"enabled": "auto"}}, None),
        ({"bf16": {"enabled": True}}, True),
        ({"bf16": {"enabled": False}}, False),
        ({"bfloat16": {"enabled": True}}, True),
    ],
)
def test_bf16_is_wanted_where_it_is_said_outright(value: Json, wanted: bool | None, tmp_path: Path) -> None:
    (tmp_path / "ds.json").write_text(json.dumps(value))
    assert wants_bf16(value) is wanted
    assert wants_bf16(str(tmp_path / "ds.json")) is wanted


def test_a_stage_is_read_from_a_file_and_from_a_map() -> None:
    stages = [zero_stage(value) for value in (None, {}, {"zero_optimization": {"stage": 1}})]
    assert [*stages, zero_stage(str(find_shipped("ds_zero_3.json")))] == [0, 0, 1, 3]


@pytest.mark.parametrize("text", ["{", "[]", "7"])
def test_what_is_no_json_map_is_refused_with_its_name(text: str, tmp_path: Path) -> None:
    (tmp_path / "ds.json").write_text(text)
    with pytest.raises(ConfigError, match=r"ds\.json"):
        read_deepspeed(str(tmp_path / "ds.json"))
