"""`fsdp` and `fsdp_config` in transformers' spelling, and in accelerate's: what FSDP2 is told."""

from collections.abc import Callable

import pytest

from finetune.config.fsdp import Sharding
from finetune.config.load import parse_config
from finetune.config.schema import Config

Load = Callable[..., Config]

OFF = None
FULL = Sharding(reshard_after_forward=True, cpu_offload=False, layer_classes=())
KEPT = Sharding(reshard_after_forward=False, cpu_offload=False, layer_classes=())
ON_CPU = Sharding(reshard_after_forward=True, cpu_offload=True, layer_classes=())
GLM = Sharding(reshard_after_forward=True, cpu_offload=False, layer_classes=("GlmDecoderLayer", "Block"))


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("fsdp: null", OFF),
        ("fsdp: false", OFF),
        ('fsdp: ""', OFF),
        ("fsdp: []", OFF),
        ("fsdp: true", FULL),
        ("fsdp: full_shard", FULL),
        ("fsdp: FULL_SHARD AUTO_WRAP", FULL),
        ("fsdp: [full_shard, auto_wrap]", FULL),
        ("fsdp: shard_grad_op", KEPT),
        ("fsdp: full_shard offload", ON_CPU),
        ("fsdp: offload", ON_CPU),
        ("fsdp: true, fsdp_config: {reshard_after_forward: false}", KEPT),
        ("fsdp: auto_wrap, fsdp_config: {reshard_after_forward: false}", KEPT),
        ("fsdp: true, fsdp_config: {cpu_offload: true}", ON_CPU),
        ("fsdp: true, fsdp_config: {offload_params: true}", ON_CPU),
        ("fsdp: true, fsdp_config: {fsdp_offload_params: true, fsdp_version: 2}", ON_CPU),
        ("fsdp: true, fsdp_config: {transformer_layer_cls_to_wrap: [GlmDecoderLayer, Block]}", GLM),
        ('fsdp: true, fsdp_config: {fsdp_transformer_layer_cls_to_wrap: "GlmDecoderLayer,Block"}', GLM),
        ('fsdp: true, fsdp_transformer_layer_cls_to_wrap: "GlmDecoderLayer, Block"', GLM),
    ],
)
def test_a_spelling_means(load: Load, written: str, told: Sharding | None) -> None:
    config = load(f"training_args: {{{written}}}")
    assert config.training_args.placement.sharding == told
    assert parse_config(config.as_yaml(), "run.json").training_args.placement.sharding == told


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("version: 2", []),
        ("fsdp_version: 2", []),
        ("min_num_params: 0", []),
        ("activation_checkpointing: false", []),
        ("auto_wrap_policy: TRANSFORMER_BASED_WRAP", []),
        ("fsdp_state_dict_type: FULL_STATE_DICT", []),
        ("state_dict_type: SHARDED_STATE_DICT", ["state_dict_type", "has no effect"]),
        ("fsdp_state_dict_type: SHARDED_STATE_DICT", ["state_dict_type", "has no effect"]),
        ("backward_prefetch: backward_pre", ["backward_prefetch", "has no effect"]),
        ("use_orig_params: false", ["use_orig_params", "has no effect"]),
        ("limit_all_gathers: false", ["limit_all_gathers", "has no effect"]),
        ("offload_params: true", ["offload_params is called cpu_offload here"]),
        ("fsdp_offload_params: true", ["fsdp_offload_params is called cpu_offload here"]),
        ("fsdp_cpu_offload: true", ["fsdp_cpu_offload is called cpu_offload here"]),
    ],
)
def test_a_key_that_is_not_taken_as_it_stands_is_told_once(load: Load, option: str, said: list[str]) -> None:
    notices = load(f"training_args: {{fsdp: true, fsdp_config: {{{option}}}}}").notices
    assert len(notices) == bool(said)
    assert all(part in notices[0] for part in said)
