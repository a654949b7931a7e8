"""What older files call things: GLM-4's finetune_demo and older transformers."""

from collections.abc import Mapping

OLD: Mapping[str, Mapping[str, str]] = {
    "": {"combine": "data_config.train_on", "freezeV": "model_config.freeze"},
    "training_args": {
        "evaluation_strategy": "eval_strategy",
        "warmup_ratio": "warmup_steps",
        "no_cuda": "use_cpu",
        "activation_checkpointing": "gradient_checkpointing",
        "per_gpu_train_batch_size": "per_device_train_batch_size",
        "per_gpu_eval_batch_size": "per_device_eval_batch_size",
    },
    "peft_config": {"type": "peft_type"},
}

REMOVED: Mapping[str, str] = {
    "fp16_backend": "it went with apex; use bf16: true",
    "fp16_opt_level": "it went with apex; use bf16: true",
    "half_precision_backend": "it went with apex; use bf16: true",
    "include_tokens_per_second": "tokens per second are always shown",
    "jit_mode_eval": "remove it",
    "past_index": "remove it",
    "push_to_hub_token": "a token does not belong into a file that is kept with the run",
    "ray_scope": "remove it",
    "split_batches": "remove it",
    "tpu_num_cores": "finetune does not run on TPUs",
    "use_ipex": "remove it",
    "use_mps_device": "remove it; a device that is there is used",
}
"""Keys that were Seq2SeqTrainingArguments' own once."""
