"""A configuration of another tool is translated line by line: what every common key is called here."""

import re
from collections.abc import Callable

import pytest

from finetune.config.names import LEVELS
from finetune.config.other_tools import ABSENT, ELSEWHERE
from finetune.config.transformers_keys import NO_EFFECT, NOT_HONOURED
from tests.config.mistake_kinds import KEYS

Mistakes = Callable[..., list[str]]

LLAMA_FACTORY = """
model_name_or_path        the second argument of finetune train
trust_remote_code         belongs under model_config
adapter_name_or_path      here it is model_config.adapter
quantization_bit          here it is model_config.quantization (nf4 or int8)
double_quantization       here it is model_config.quantization: nf4
flash_attn                here it is model_config.attention
rope_scaling              the checkpoint's config.json decides
use_unsloth               remove it
enable_liger_kernel       remove it
stage                     finetune does supervised fine-tuning
do_train                  here it is the command itself
finetuning_type           here it is peft_config.peft_type
lora_rank                 here it is peft_config.r
lora_alpha                belongs under peft_config
lora_dropout              belongs under peft_config
lora_target               here it is peft_config.target_modules
additional_target         here it is peft_config.modules_to_save
loraplus_lr_ratio         belongs under run
use_rslora                belongs under peft_config
use_dora                  belongs under peft_config
pissa_init                finetune explain init_lora_weights lists the ways to start
freeze_trainable_layers   here it is model_config.freeze
freeze_vision_tower       here it is model_config.freeze: [vision]
pure_bf16                 here it is model_config.dtype: bfloat16
use_galore                finetune explain optim lists the optimizers
plot_loss                 report.html always shows the curves
dataset                   here it is data_config.train_file
dataset_dir               the first argument of finetune train
eval_dataset              here it is data_config.val_file
val_size                  here it is data_config.val_file
template                  here it is model_config.chat_template
cutoff_len                here it is max_input_length and max_output_length
max_samples               here it is data_config.train_file, as a list of {file, limit}
mix_strategy              here it is data_config.train_file, as a list of {file, weight}
interleave_probs          here it is data_config.train_file, as a list of {file, weight}
mask_history              here it is data_config.train_on: last
train_on_prompt           here it is data_config.train_on
packing                   here it is run.tokens_per_micro_batch
neat_packing              here it is run.tokens_per_micro_batch
streaming                 data is read once and mapped into memory
overwrite_cache           never stale; remove it
tokenized_path            never stale; remove it
preprocessing_num_workers here it is data_config.num_proc
tool_format               a chat template decides how a conversation is spelt
default_system            a system message stands in the conversations themselves
enable_thinking           here it is model_config.chat_template_kwargs
compute_accuracy          here it is evaluation.metrics
overwrite_output_dir      RESUME decides
dataloader_num_workers    examples are encoded once
output_dir                belongs under training_args
logging_steps             belongs under training_args
save_steps                belongs under training_args
per_device_train_batch_size  belongs under training_args
gradient_accumulation_steps  belongs under training_args
learning_rate             belongs under training_args
num_train_epochs          belongs under training_args
lr_scheduler_type         belongs under training_args
warmup_ratio              here it is training_args.warmup_steps
bf16                      belongs under training_args
ddp_timeout               belongs under training_args
neftune_noise_alpha       belongs under training_args
resume_from_checkpoint    here it is the argument RESUME of finetune train
export_dir                here it is finetune merge
"""

AXOLOTL = """
base_model                the second argument of finetune train
tokenizer_type            the second argument of finetune train
load_in_8bit              here it is model_config.quantization: int8
load_in_4bit              here it is model_config.quantization: nf4
strict                    here it is data_config.on_bad_record
chat_template             belongs under model_config
datasets                  here it is data_config.train_file
test_datasets             here it is data_config.val_file
dataset_prepared_path     never stale; remove it
dataset_processes         here it is data_config.num_proc
val_set_size              here it is data_config.val_file
adapter                   here it is peft_config.peft_type
lora_model_dir            here it is model_config.adapter
lora_r                    here it is peft_config.r
lora_target_modules       here it is peft_config.target_modules
lora_target_linear        here it is peft_config.target_modules: all-linear
lora_modules_to_save      here it is peft_config.modules_to_save
lora_fan_in_fan_out       here it is peft_config.fan_in_fan_out
peft_use_dora             here it is peft_config.use_dora
peft_use_rslora           here it is peft_config.use_rslora
peft_init_lora_weights    here it is peft_config.init_lora_weights
peft_layers_to_transform  here it is peft_config.layers_to_transform
unfrozen_parameters       here it is model_config.freeze
sequence_len              here it is max_input_length and max_output_length
excess_length_strategy    here it is data_config.overflow
sample_packing            here it is run.tokens_per_micro_batch
eval_sample_packing       here it is run.tokens_per_micro_batch
pad_to_sequence_len       here it is run.tokens_per_micro_batch
train_on_inputs           here it is data_config.train_on
roles_to_train            what the assistant writes is learnt
micro_batch_size          here it is training_args.per_device_train_batch_size
eval_batch_size           here it is training_args.per_device_eval_batch_size
num_epochs                here it is training_args.num_train_epochs
optimizer                 here it is training_args.optim
lr_scheduler              here it is training_args.lr_scheduler_type
cosine_min_lr_ratio       here it is training_args.lr_scheduler_kwargs
embedding_lr              here it is run.embedding_learning_rate
evals_per_epoch           here it is training_args.eval_steps
saves_per_epoch           here it is training_args.save_steps
eval_max_new_tokens       here it is training_args.generation_config.max_new_tokens
early_stopping_patience   run.early_stopping: {patience: …}
flash_attention           here it is model_config.attention
sdp_attention             here it is model_config.attention
lora_mlp_kernel           remove it
wandb_project             here it is training_args.project
wandb_entity              an environment variable of the tracker's own
wandb_name                here it is training_args.run_name
use_tensorboard           here it is training_args.report_to
special_tokens            the vocabulary is the checkpoint's
rl                        finetune does supervised fine-tuning
device_map                the run decides where the model lies
sequence_parallel_degree  sequences are not split over processes
fsdp                      belongs under training_args
deepspeed                 belongs under training_args
shuffle_merged_datasets   here it is data_config.shuffle
group_by_length           micro-batches hold no padding
auto_resume_from_checkpoints  here it is the argument RESUME of finetune train
hub_model_id              transformers knows this key, finetune does not honour it
"""

MS_SWIFT = """
model                     the second argument of finetune train
tuner_type                here it is peft_config.peft_type
train_type                here it is peft_config.peft_type
adapters                  here it is model_config.adapter
torch_dtype               here it is model_config.dtype
attn_impl                 here it is model_config.attention
val_dataset               here it is data_config.val_file
split_dataset_ratio       here it is data_config.val_file
dataset_num_proc          here it is data_config.num_proc
max_length                here it is max_input_length and max_output_length
truncation_strategy       here it is data_config.overflow
loss_scale                here it is data_config.train_on
padding_free              here it is run.tokens_per_micro_batch
lazy_tokenize             never stale; remove it
system                    a system message stands in the conversations themselves
agent_template            a chat template decides how a conversation is spelt
quant_bits                here it is model_config.quantization (nf4 or int8)
quant_method              here it is model_config.quantization (nf4 or int8)
bnb_4bit_compute_dtype    here it is model_config.dtype
freeze_parameters         here it is model_config.freeze
freeze_vit                here it is model_config.freeze: [vision]
target_regex              here it is peft_config.target_modules
lorap_lr_ratio            here it is run.loraplus_lr_ratio
max_epochs                here it is training_args.num_train_epochs
eval_limit                here it is evaluation.limit
eval_metric               here it is evaluation.metrics
sequence_parallel_size    sequences are not split over processes
swanlab_project           here it is training_args.project
"""

TRL_AND_UNSLOTH = """
dataset_name              here it is data_config.train_file
dataset_text_field        a record says in which keys it keeps what
attn_implementation       here it is model_config.attention
use_peft                  here it is peft_config.peft_type
lora_task_type            here it is peft_config.task_type
max_seq_length            here it is max_input_length and max_output_length
truncation_mode           here it is data_config.overflow
assistant_only_loss       here it is data_config.train_on
completion_only_loss      here it is data_config.train_on
train_on_responses_only   here it is data_config.train_on
packing_strategy          here it is run.tokens_per_micro_batch
eval_packing              here it is run.tokens_per_micro_batch
chat_template_path        here it is model_config.chat_template
use_gradient_checkpointing  here it is training_args.gradient_checkpointing
random_state              here it is training_args.seed
modules_to_save           belongs under peft_config
evaluation_strategy       belongs under training_args
model_name                the second argument of finetune train
bnb_4bit_quant_type       here it is model_config.quantization: nf4
use_bnb_nested_quant      here it is model_config.quantization: nf4
"""

TOOLS = {
    "LLaMA-Factory": LLAMA_FACTORY,
    "Axolotl": AXOLOTL,
    "ms-swift": MS_SWIFT,
    "TRL and Unsloth": TRL_AND_UNSLOTH,
}


def rows(table: str) -> list[tuple[str, str]]:
    """(name there, what is said here)"""
    return [(name, said) for name, said in (line.split(maxsplit=1) for line in table.strip().splitlines())]


@pytest.mark.parametrize("tool", TOOLS)
def test_a_file_of_another_tool_is_translated_line_by_line(tool: str, mistakes: Mistakes) -> None:
    known = rows(TOOLS[tool])
    told = mistakes("".join(f"{name}: 1\n" for name, _ in known))
    assert len(told) == len(known)
    wrong = [
        line
        for line, (name, said) in zip(told, known, strict=True)
        if f" {name}: " not in line or said not in line
    ]
    assert wrong == []


def test_what_a_name_is_here_exists_here() -> None:
    paths = {key.path for key in KEYS}
    begun = {here: re.match(r"\w+(\.\w+)*", here) for here in ELSEWHERE.values()}
    first = {here: found[0] for here, found in begun.items() if found}
    prose = ("the", "finetune", "an")
    assert {here for here, path in first.items() if path not in paths and path not in prose} == set()


def test_no_name_of_another_tool_hides_a_key_of_ours() -> None:
    ours = set().union(*LEVELS.values())
    assert (ELSEWHERE.keys() | ABSENT.keys()) & ours == {"adapter"}
    assert ELSEWHERE.keys() & ABSENT.keys() == set()
    assert ABSENT.keys() & (NOT_HONOURED.keys() | NO_EFFECT.keys()) == set()


@pytest.mark.parametrize(
    "text",
    [
        "lora_rank: 8",
        "lora-rank: 8",
        "loraRank: 8",
        "LoraRank: 8",
        "LORA_RANK: 8",
        "training_args: {lora_rank: 8}",
        "training_args: {lora-rank: 8}",
        "peft_config: {peft_type: LORA, lora_rank: 8}",
        "peft_config: {peft_type: LORA, loraRank: 8}",
        "peft_config: {lora_rank: 8, peft_type: LORA}",
        "model_config: {lora_rank: 8}",
    ],
)
def test_a_name_is_known_wherever_it_stands_and_however_it_is_cased(text: str, mistakes: Mistakes) -> None:
    (line,) = mistakes(text)
    assert line.endswith("unknown key; here it is peft_config.r")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("learningRate: 1", "learningRate: unknown key; did you mean training_args.learning_rate?"),
        ("learning-rate: 1", "learning-rate: unknown key; did you mean training_args.learning_rate?"),
        ("training_args: {learningRate: 1}", "learningRate: unknown key; did you mean learning_rate?"),
        ("training_args: {maxInputLength: 1}", "maxInputLength: unknown key; did you mean max_input_length?"),
        ("peft_config: {peft_type: LORA, loraAlpha: 1}", "loraAlpha: unknown key; did you mean lora_alpha?"),
        ("lora_rnk: 1", "lora_rnk: unknown key; did you mean lora_rank? Here it is peft_config.r"),
        ("pushToHub: true", "transformers knows this key, finetune does not honour it"),
        ("lora: {r: 8}", "lora: unknown key; here it is peft_config"),
        ("training_args: {optimizer: {lr: 1}}", "unknown key; here it is training_args.optim"),
    ],
)
def test_a_key_in_another_case_or_nearly_right_is_understood(text: str, said: str, mistakes: Mistakes) -> None:
    (line,) = mistakes(text)
    assert said in line
