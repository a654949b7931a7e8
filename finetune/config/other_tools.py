"""What other tools call things: the hint behind "unknown key", and what `finetune explain` finds.

The names are those of LLaMA-Factory, Axolotl, ms-swift, TRL, Unsloth and ChatGLM's scripts.
"""

from collections.abc import Mapping

_LENGTHS = "max_input_length and max_output_length"
_METHOD = "peft_config.peft_type (LORA, PREFIX_TUNING, …; absent: the whole model)"
_MODEL = "the second argument of finetune train"
_SHARE_OF_RUN = "(below 1 it is a share of all steps)"

_THEIRS: Mapping[str, str] = {
    "the first argument of finetune train": "data_dir dataset_dir",
    _MODEL: (
        "base_model model model_id model_id_or_path model_name model_name_or_path model_path "
        "pretrained_model_name_or_path"
    ),
    f"{_MODEL} (its folder holds the tokenizer, too)": (
        "processor_type tokenizer tokenizer_config tokenizer_name tokenizer_path tokenizer_type"
    ),
    "the argument RESUME of finetune train": "auto_resume_from_checkpoints resume resume_from_checkpoint",
    "the command itself": "do_train",
    _LENGTHS: (
        "block_size context_length cutoff_len eval_sequence_len max_length max_model_len "
        "max_packed_sequence_len max_seq_len max_seq_length model_max_length seq_len seq_length "
        "sequence_len sequence_length"
    ),
    "max_input_length": "max_prompt_len max_prompt_length max_source_length source_max_len",
    "max_output_length": "max_completion_length max_target_length target_max_len",
    # data
    "data_config": "data",
    "data_config.train_file": (
        "data_files data_path dataset dataset_name dataset_path datasets train_data train_data_path "
        "train_dataset train_files train_path training_data"
    ),
    "data_config.train_file, as a list of {file, limit}": "max_samples max_train_samples",
    "data_config.train_file, as a list of {file, weight}": (
        "interleave_prob interleave_probs mix_strategy mixing_strategy stopping_strategy"
    ),
    "data_config.val_file": (
        "dev_file eval_data eval_dataset eval_datasets eval_file test_datasets val_data val_dataset "
        "valid_file validation_data validation_dataset validation_file"
    ),
    "data_config.val_file (a file of its own: nothing is split off)": (
        "split_dataset_ratio test_split_size val_set_size val_size validation_split"
    ),
    "data_config.shuffle": "dataset_shuffle shuffle_dataset shuffle_merged_datasets train_dataloader_shuffle",
    "data_config.shuffle: false": "curriculum_sampling disable_shuffling",
    "data_config.num_proc": "dataset_num_proc dataset_processes num_workers preprocessing_num_workers",
    "data_config.format": "data_format dataset_format dataset_type formatting",
    "data_config.train_on (all: what the assistant writes; everything: prompts, too)": (
        "assistant_only_loss completion_only_loss loss_scale mask_inputs mask_prompt train_on_completions_only "
        "train_on_input train_on_inputs train_on_prompt train_on_responses_only"
    ),
    "data_config.train_on: last": "mask_history train_on_last_turn_only",
    "data_config.overflow": (
        "excess_length_strategy truncation truncation_mode truncation_side truncation_strategy"
    ),
    "data_config.on_bad_record": "strict",
    # model
    "model_config.dtype": "bnb_4bit_compute_dtype compute_dtype infer_dtype torch_dtype",
    "model_config.dtype: bfloat16": "pure_bf16",
    "model_config.dtype: float32": "float32",
    "model_config.quantization: nf4": "bnb_4bit_quant_type load_in_4bit quantization_type",
    "model_config.quantization: nf4 (its constants are quantized, too)": (
        "bnb_4bit_use_double_quant double_quantization use_bnb_nested_quant use_double_quant"
    ),
    "model_config.quantization: int8": "load_in_8bit",
    "model_config.quantization (nf4 or int8)": (
        "bits bnb_config quant_bits quant_method quantization_bit quantization_config quantization_method "
        "quantize"
    ),
    "model_config.attention": (
        "attn_impl attn_implementation eager_attention flash_attention flash_attn flash_attn_impl "
        "flex_attention sdp_attention use_flash_attention_2 use_flash_attn xformers_attention"
    ),
    "model_config.chat_template": "chat_template_jinja chat_template_path prompt_template template",
    "model_config.chat_template_kwargs: {enable_thinking: …}": "enable_thinking",
    "model_config.adapter": (
        "adapter_folder adapter_name_or_path adapter_path adapters lora_model_dir lora_path resume_from_lora"
    ),
    "model_config.freeze": (
        "freeze_parameters freeze_parameters_regex freeze_trainable_layers freeze_trainable_modules "
        "frozen_parameters unfrozen_parameters"
    ),
    "model_config.freeze: [vision]": "freeze_vision_model freeze_vision_tower freeze_vit",
    # adapters
    "peft_config": "lora lora_config lora_parameters peft tuner",
    _METHOD: (
        "fine_tune_type finetuning_type sft_type train_method train_type tuner_type tuning_method use_lora "
        "use_peft"
    ),
    f"{_METHOD}; an adapter to continue is model_config.adapter": "adapter",
    "peft_config.r": "lora_dim lora_r lora_rank rank",
    "peft_config.lora_alpha": "alpha",
    "peft_config.target_modules": "lora_layers lora_target lora_target_modules target_regex",
    "peft_config.target_modules: all-linear": "lora_target_linear",
    "peft_config.modules_to_save": "additional_target lora_modules_to_save",
    "peft_config.fan_in_fan_out": "lora_fan_in_fan_out",
    "peft_config.target_parameters": "lora_target_parameters",
    "peft_config.rank_pattern": "lora_rank_pattern",
    "peft_config.alpha_pattern": "lora_alpha_pattern",
    "peft_config.task_type": "lora_task_type",
    "peft_config.use_dora": "peft_use_dora",
    "peft_config.use_rslora": "peft_use_rslora",
    "peft_config.init_lora_weights": "peft_init_lora_weights",
    "peft_config.layers_to_transform": "peft_layers_to_transform",
    "peft_config.layers_pattern": "peft_layers_pattern",
    "peft_config.trainable_token_indices": "peft_trainable_token_indices",
    "peft_config.ensure_weight_tying": "peft_ensure_weight_tying",
    "peft_config.num_virtual_tokens": "num_soft_prompt_tokens pre_seq_len prefix_length prompt_length",
    # training
    "training_args": "hyperparameters train trainer training training_arguments",
    "training_args.output_dir": "checkpoint_dir output output_path save_dir",
    "training_args.per_device_train_batch_size": (
        "batch_size micro_batch_size micro_batch_size_per_gpu train_batch_size train_micro_batch_size_per_gpu"
    ),
    "training_args.per_device_eval_batch_size": "eval_batch_size val_batch_size",
    "run.conversations_per_step": "effective_batch_size global_batch_size total_batch_size",
    "training_args.gradient_accumulation_steps": (
        "accumulate_grad_batches accumulation_steps grad_accum grad_accum_steps grad_accumulation_steps"
    ),
    "training_args.learning_rate": "lr",
    "training_args.num_train_epochs": (
        "epoch epochs max_epochs n_epochs num_epochs num_training_epochs train_epochs"
    ),
    "training_args.max_steps": (
        "iters max_train_steps num_steps num_train_steps num_training_steps total_steps train_iters train_steps"
    ),
    f"training_args.warmup_steps {_SHARE_OF_RUN}": "lr_warmup_ratio warmup_fraction warmup_ratio",
    "training_args.warmup_steps": "lr_warmup_iters lr_warmup_steps num_warmup_steps warmup warmup_iters",
    "training_args.lr_scheduler_type": "lr_decay_style lr_schedule lr_scheduler scheduler scheduler_type",
    "training_args.lr_scheduler_kwargs": "lr_scheduler_args scheduler_kwargs",
    "training_args.lr_scheduler_kwargs: {min_lr_rate: …} (with cosine_with_min_lr)": (
        "cosine_min_lr_ratio lr_min_ratio min_lr_ratio"
    ),
    "training_args.lr_scheduler_kwargs: {min_lr: …} (with cosine_with_min_lr)": (
        "lr_min min_learning_rate min_lr"
    ),
    "training_args.optim": "optimizer optimizer_name optimizer_type",
    "training_args.optim_args": "optimizer_kwargs",
    "training_args.max_grad_norm": (
        "clip_grad clip_grad_norm grad_clip gradient_clip_val gradient_clipping max_gradient_norm"
    ),
    "training_args.adam_beta1": "beta1",
    "training_args.adam_beta2": "beta2",
    "training_args.adam_epsilon": "adam_eps epsilon",
    "training_args.label_smoothing_factor": "label_smoothing",
    "training_args.neftune_noise_alpha": "neftune neftune_alpha noisy_embedding_alpha",
    "training_args.gradient_checkpointing": "grad_checkpoint use_gradient_checkpointing",
    "training_args.gradient_checkpointing: false": "disable_gradient_checkpointing",
    "training_args.gradient_checkpointing_kwargs: {use_reentrant: …}": "use_reentrant_gc",
    "training_args.bf16": "amp bfloat16 mixed_precision precision",
    "training_args.fp16": "float16",
    "training_args.fsdp_config": "fsdp_version",
    "training_args.fsdp_config.reshard_after_forward": "fsdp_sharding_strategy sharding_strategy",
    "training_args.deepspeed": "deepspeed_config",
    "training_args.ddp_backend": "distributed_backend",
    "training_args.logging_steps": "log_every log_every_n_steps log_interval log_steps",
    "training_args.save_steps": (
        "checkpoint_interval checkpoint_steps checkpointing_steps save_every save_freq save_interval"
    ),
    f"training_args.save_steps {_SHARE_OF_RUN}": "saves_per_epoch",
    "training_args.eval_steps": "eval_every eval_frequency eval_interval steps_per_eval val_check_interval",
    f"training_args.eval_steps {_SHARE_OF_RUN}": "evals_per_epoch",
    "training_args.save_total_limit": "keep_last_n_checkpoints max_checkpoints",
    "training_args.report_to": (
        "log_with logger trackers use_comet use_mlflow use_swanlab use_tensorboard use_trackio use_wandb"
    ),
    "training_args.run_name": (
        "experiment_name mlflow_run_name swanlab_exp_name swanlab_run_name trackio_run_name wandb_name "
        "wandb_run_name"
    ),
    "training_args.project": (
        "comet_project_name mlflow_experiment_name project_name swanlab_project trackio_project_name "
        "wandb_project"
    ),
    "training_args.seed": "random_seed random_state",
    "training_args.generation_config": "eval_generation_config generation",
    "training_args.generation_config.max_new_tokens": (
        "eval_max_new_tokens generation_max_new_tokens max_tokens"
    ),
    "training_args.generation_config.num_beams": "eval_num_beams",
    "training_args.generation_config.temperature": "generation_temperature",
    "training_args.generation_config.top_p": "generation_top_p",
    "training_args.generation_config.top_k": "generation_top_k",
    "training_args.generation_config.do_sample": "generation_do_sample",
    "run.tokens_per_micro_batch (micro-batches are always packed, conversations never see each other)": (
        "batch_flattening eval_packing eval_sample_packing neat_packing packing packing_length "
        "packing_strategy pad_to_sequence_len padding_free sample_packing"
    ),
    "run.loraplus_lr_ratio": "lora_plus_lr_ratio lorap_lr_ratio loraplus_ratio",
    "run.embedding_learning_rate": "embedding_lr loraplus_lr_embedding",
    "run.early_stopping: {patience: …} (in evaluations)": (
        "early_stop_interval early_stop_patience early_stopping_patience early_stopping_steps"
    ),
    "run.early_stopping: {threshold: …}": "early_stopping_min_delta early_stopping_threshold min_delta",
    # evaluation
    "evaluation.metrics": "compute_accuracy eval_metric eval_metrics",
    "evaluation.limit": "eval_limit max_eval_samples max_predict_samples",
    "finetune merge, after training": "export_dir merge_adapter merge_lora",
    "the environment variable HF_TOKEN": "hf_hub_token hf_token hf_use_auth_token use_auth_token",
    "an environment variable of the tracker's own, such as WANDB_ENTITY": (
        "comet_api_key comet_workspace mlflow_tracking_uri swanlab_api_key swanlab_mode swanlab_token "
        "swanlab_workspace wandb_entity wandb_log_model wandb_mode wandb_run_id wandb_watch"
    ),
}
"""What it is here -> what they call it."""

ELSEWHERE: Mapping[str, str] = {name: here for here, names in _THEIRS.items() for name in names.split()}
"""A name of another tool -> what it is here."""

_NOT_HERE: Mapping[str, str] = {
    "finetune does supervised fine-tuning, nothing else": (
        "beta dpo_beta dpo_loss_type kto_chosen_weight pref_beta pref_ftx pref_loss ref_model reward_model "
        "rl rlhf_type simpo_gamma stage"
    ),
    "what the assistant writes is learnt, its stop token too (data_config.train_on); remove it": (
        "ignore_pad_token_for_loss roles_to_train train_on_eos train_on_eot"
    ),
    "only LoRA's B and the embeddings have a learning rate of their own (run.loraplus_lr_ratio, "
    "run.embedding_learning_rate)": "aligner_lr lr_groups vit_lr",
    "finetune explain optim lists the optimizers": (
        "badam_mode galore_rank galore_target lisa_activated_layers use_adam_mini use_apollo use_badam "
        "use_galore use_muon"
    ),
    "finetune explain init_lora_weights lists the ways to start": "loftq_config pissa_init pissa_iter",
    "sequences are not split over processes; remove it": (
        "context_parallel_size ring_attn_func sequence_parallel_degree sequence_parallel_size "
        "tensor_parallel_size"
    ),
    "the run decides where the model lies; remove it": (
        "device device_map gpu_memory_limit gpus low_cpu_mem_usage max_memory num_gpus offload_folder"
    ),
    "the loss is computed for learnt tokens only, without such a switch; remove it": (
        "chunked_cross_entropy cut_cross_entropy enable_liger_kernel flash_attn_cross_entropy "
        "lora_mlp_kernel lora_o_kernel lora_qkv_kernel use_kernels use_logits_to_keep use_unsloth "
        "use_unsloth_gc"
    ),
    "the vocabulary is the checkpoint's; change it there, before training": (
        "add_special_tokens add_tokens eos_token new_special_tokens pad_token resize_vocab special_tokens "
        "tokens"
    ),
    "a system message stands in the conversations themselves": (
        "default_system default_system_message system system_message system_prompt"
    ),
    "encoded data is kept by the content of data and settings, and never stale; remove it": (
        "cache_dir cached_dataset dataset_prepared_path lazy_tokenize load_from_cache_file overwrite_cache "
        "preprocessing_batch_size tokenized_path"
    ),
    "data is read once and mapped into memory; remove it": "buffer_size dataset_streaming streaming",
    "report.html always shows the curves; remove it": "plot_loss",
    "weights are always saved as safetensors; remove it": "safe_serialization",
    "tokenizers are always the fast ones; remove it": "tokenizer_use_fast use_fast use_fast_tokenizer",
    "the checkpoint's config.json decides; change it there": "rope_scaling",
    "download the revision, and give its folder as the model": "model_revision revision revision_of_model",
    "a record says in which keys it keeps what; finetune check DATA shows what was understood": (
        "dataset_text_field field_messages message_field_content message_field_role message_property_mappings"
    ),
    "a chat template decides how a conversation is spelt; remove it": (
        "agent_template conversation_template prompt_style tool_format"
    ),
}

ABSENT: Mapping[str, str] = {name: why for why, names in _NOT_HERE.items() for name in names.split()}
"""A name of another tool for what finetune has no key for -> why, and what to do."""
