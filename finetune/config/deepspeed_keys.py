"""The keys of DeepSpeed's JSON, from its documentation and its code. A test compares with DeepSpeed's own."""

from collections.abc import Mapping

TOP_LEVEL: frozenset[str] = frozenset(
    [
        "activation_checkpointing",
        "aio",
        "autotuning",
        "bf16",
        "bfloat16",
        "checkpoint",
        "comet",
        "comms_logger",
        "communication_data_type",
        "compile",
        "csv_monitor",
        "data_efficiency",
        "data_types",
        "dataloader_drop_last",
        "datastates_ckpt",
        "disable_allgather",
        "disable_python_gc",
        "dump_state",
        "expert_parallel",
        "flops_profiler",
        "fp16",
        "gradient_accumulation_steps",
        "gradient_allreduce_op",
        "gradient_clipping",
        "gradient_predivide_factor",
        "hybrid_engine",
        "log_level",
        "managed_gradient_accumulation",
        "memory_breakdown",
        "optimizer",
        "pipeline",
        "prescale_gradients",
        "scheduler",
        "seq_parallel_communication_data_type",
        "steps_per_print",
        "tensor_parallel",
        "tensorboard",
        "timers",
        "torch_autocast",
        "train_batch_size",
        "train_micro_batch_size_per_gpu",
        "use_data_before_expert_parallelism",
        "vocabulary_size",
        "wall_clock_breakdown",
        "wandb",
        "weight_quantization",
        "zero_allow_untested_optimizer",
        "zero_force_ds_cpu_optimizer",
        "zero_optimization",
    ]
)
"""Keys at the top level."""

GONE: frozenset[str] = frozenset(
    [
        "amp",
        "compression_training",
        "curriculum_learning",
        "eigenvalue",
        "elasticity",
        "graph_harvesting",
        "nebula",
        "progressive_layer_drop",
        "quantize_training",
        "sparse_attention",
        "sparse_gradients",
    ]
)
"""Keys at the top level that DeepSpeed had once, and stops at today."""

ZERO: frozenset[str] = frozenset(
    [
        "allgather_bucket_size",
        "allgather_partitions",
        "compute_grad_norm",
        "contiguous_gradients",
        "cpu_offload",
        "cpu_offload_param",
        "cpu_offload_use_pin_memory",
        "elastic_checkpoint",
        "enable_sanity_checks",
        "ignore_unused_parameters",
        "leaf_module",
        "legacy_stage1",
        "load_from_fp32_weights",
        "log_trace_cache_warnings",
        "memory_efficient_linear",
        "offload_optimizer",
        "offload_param",
        "overlap_comm",
        "override_module_apply",
        "parameter_alignment",
        "pipeline_loading_checkpoint",
        "reduce_bucket_size",
        "reduce_scatter",
        "round_robin_gradients",
        "save_muon_momentum_buffer_in_memory",
        "stage",
        "stage3_allgather_sequential",
        "stage3_gather_16bit_weights_on_model_save",
        "stage3_gather_fp16_weights_on_model_save",
        "stage3_max_live_parameters",
        "stage3_max_reuse_distance",
        "stage3_model_persistence_threshold",
        "stage3_module_granularity_threshold",
        "stage3_param_persistence_threshold",
        "stage3_prefetch_bucket_size",
        "stage3_use_all_reduce_for_fetch_params",
        "sub_group_size",
        "use_multi_rank_bucket_allreduce",
        "zenflow",
        "zero_hpz_partition_size",
        "zero_quantized_gradients",
        "zero_quantized_nontrainable_weights",
        "zero_quantized_weights",
    ]
)
"""Keys of zero_optimization."""

_NOT_SPLIT = "finetune splits neither layers nor sequences over processes"

NOT_BUILT: Mapping[tuple[str, ...], str] = {
    ("autotuning",): "finetune plans its micro-batches itself; run.tokens_per_micro_batch bounds them",
    ("compile",): "finetune does not compile the model",
    ("data_efficiency",): "finetune decides which conversations form a step",
    ("expert_parallel",): _NOT_SPLIT,
    ("hybrid_engine",): "finetune generates with the model as it is",
    ("pipeline",): _NOT_SPLIT,
    ("tensor_parallel",): _NOT_SPLIT,
    ("torch_autocast",): "bf16 decides the precision",
    ("weight_quantization",): "model_config.quantization decides",
    ("zero_optimization", "zenflow"): "its updates come late, and would not be those of one process",
}
"""Sections that would change what is trained, and why finetune does not follow them."""

FIXED: Mapping[tuple[str, ...], object] = {
    ("gradient_allreduce_op",): "mean",
    ("managed_gradient_accumulation",): True,
    ("zero_optimization", "compute_grad_norm"): True,
}
"""Keys that finetune's loop relies on, with the only value that they may have: DeepSpeed's default."""
