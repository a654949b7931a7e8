"""The sections of a configuration that are ours alone, each named for the room that reads it."""

from collections.abc import Mapping
from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag

from finetune.config.section import Count, NotNegative, Positive, Section, Texts


class FileShare(Section):
    """One of several training files."""

    file: str
    """A file, a folder or a Hub id, as for `train_file`."""

    weight: Annotated[float, Field(gt=0, le=1000)] = 1.0
    """How often its conversations are seen in an epoch, relative to once."""

    limit: Count | None = None
    """At most so many of its records, from the top."""


def _file_or_files(value: Any) -> str:
    return "<several>" if isinstance(value, list) else "<one>"


def _file_or_named_files(value: Any) -> str:
    return "<none>" if value is None else "<named>" if isinstance(value, dict) else _file_or_files(value)


_TrainFiles = Annotated[
    Annotated[str, Tag("<one>")] | Annotated[list[FileShare], Field(min_length=1), Tag("<several>")],
    Discriminator(_file_or_files),
]


_Part = Literal[
    "user",
    "context",
    "assistant",
    "system",
    "history",
    "prompt",
    "completion",
    "messages",
    "conversations",
    "text",
    "tools",
    "images",
]


def name_of_file(file: str) -> str:
    """What a file is called where several are told apart: its name up to the first dot."""
    return PurePath(file).name.partition(".")[0] or file


def _told_apart(files: str | list[str] | dict[str, str] | None) -> str | list[str] | dict[str, str] | None:
    names = [name_of_file(file) for file in files] if isinstance(files, list) else []
    if (twice := next((name for name in names if names.count(name) > 1), None)) is not None:
        raise ValueError(f"two of these files are called {twice}; name them: {{{twice}: …, other: …}}")
    if wrong := [name for name in (files if isinstance(files, dict) else ()) if "/" in name or not name]:
        raise ValueError(f"{wrong[0]!r} cannot be a name in a metric; expected a text without /")
    return files


_ValidationFiles = Annotated[
    Annotated[str, Tag("<one>")]
    | Annotated[list[str], Field(min_length=1), Tag("<several>")]
    | Annotated[dict[str, str], Field(min_length=1), Tag("<named>")]
    | Annotated[None, Tag("<none>")],
    Discriminator(_file_or_named_files),
    AfterValidator(_told_apart),
]


class DataConfig(Section):
    """Which conversations, and what is learnt from them. Read by `data/`."""

    train_file: _TrainFiles
    """A .jsonl, .json or .parquet in DATA_DIR, a path, a folder, a Hub id; or a list of these as below."""

    val_file: _ValidationFiles = None
    """What `eval_strategy` evaluates on: a file, a list of files, or a map of names to files."""

    test_file: str | None = None
    """What is evaluated when training has ended."""

    shuffle: bool = True
    """Draw the order of each epoch from training_args.data_seed; false: the order of the data, every epoch."""

    num_proc: Count = 1
    """Processes that encode the data, on Linux, where cores are free. Changes the speed, never the result."""

    format: Literal["auto", "messages", "sharegpt", "alpaca", "pairs", "prompt-completion", "text"] = "auto"
    """How a record spells a conversation; `auto` looks at the first record and says what it took."""

    columns: dict[str, _Part] = Field(default_factory=dict)
    """What stands under the records' own keys: `{question: user, answer: assistant}`; no other is read."""

    special_tokens_in_text: Texts = ()
    """Added tokens of the tokenizer that texts may write: each becomes its one id, not the characters."""

    train_on: Literal["all", "last", "everything"] = "all"
    """Learn every assistant turn of a conversation, the last one only, or everything: prompts, too."""

    assistant_first: Literal["train", "context", "drop"] = "train"
    """Turns of the assistant before the first user's: learn them, only show them, or leave them out."""

    thinking: Literal["train", "drop", "skip-empty"] = "train"
    """Learn thoughts, leave them out, or `skip-empty`: empty ones that only the template writes are context."""

    overflow: Literal["drop", "truncate-left", "error"] = "drop"
    """What becomes of a conversation longer than max_input_length + max_output_length; always counted."""

    on_bad_record: Literal["error", "skip"] = "error"
    """What becomes of a record that does not parse; always counted."""

    max_image_tokens: Count | None = None
    """Larger images are scaled down to so many tokens (very slim ones to more), by the tuned model, too."""

    image_roots: Texts = ()
    """Folders, besides the data's own, that images may lie in; others are refused."""

    allow_remote_images: bool = False
    """Fetch images that are named by a http(s) address (`--allow-remote-images`)."""

    @property
    def val_files(self) -> Mapping[str, str]:
        """Name -> validation file, in order; of one file that is not in a list or map the name is empty."""
        match self.val_file:
            case None:
                return {}
            case str(file):
                return {"": file}
            case list(files):
                return {name_of_file(file): file for file in files}
            case named:
                return named


def _no_word_for_a_flag(value: Any) -> Any:
    """To a template, every text is true."""
    if isinstance(value, str) and value.lower() in ("yes", "no", "on", "off", "true", "false"):
        meant = "true" if value.lower() in ("yes", "on", "true") else "false"
        raise ValueError(f"{value!r} is a text, which a template takes for true; write {meant}, without quotes")
    return value


_TemplateValue = Annotated[bool | int | float | str | None, AfterValidator(_no_word_for_a_flag)]


class ModelConfig(Section):
    """How the base model is loaded. Read by `model/`."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the frozen weights, and DeepSpeed's "auto"; `auto`: the checkpoint's, or what the CPU is fast in."""

    quantization: Literal["nf4", "int8"] | None = None
    """Load the frozen weights in 4 or 8 bits (bitsandbytes); LoRA on them is QLoRA."""

    attention: Literal["auto", "flat", "single"] = "auto"
    """`flat`: conversations end to end, none seeing another; `single`: one at a time, stock attention."""

    chat_template: str | None = None
    """For bases without one, or none with tools: chatml, chatml-tools, glm4, llama3, gemma, or a Jinja file."""

    chat_template_kwargs: dict[str, _TemplateValue] = Field(default_factory=dict)
    """Of the chat template's own variables, such as `enable_thinking: false`; the tuned model keeps them."""

    adapter: str | None = None
    """An adapter folder to continue training; it brings its own peft_config."""

    freeze: Texts | None = None
    """Patterns of weights that do not learn, or `vision`, `tower`, `projector`; an adapter's null: [vision]."""

    trust_remote_code: bool = False
    """Run Python code that lies in the checkpoint. Only for checkpoints that you trust."""


MasterWeights = Literal["float32", "split", "stochastic"]


class EarlyStopping(Section):
    """When a run ends before its last step: transformers' EarlyStoppingCallback."""

    patience: Count = 1
    """End after so many evaluations in a row that do not improve metric_for_best_model (null: loss)."""

    threshold: NotNegative = 0.0
    """An evaluation improves it that is better than the best before by more than this."""


class RunConfig(Section):
    """What a step is and what happens when one goes wrong. Read by `train/`."""

    conversations_per_step: Count | None = None
    """In one optimizer step; null: per_device_train_batch_size x gradient_accumulation_steps x processes."""

    tokens_per_micro_batch: Count | Literal["auto"] = "auto"
    """Tokens computed at once: speed and memory, never the result; auto: the most that fits, if it helps."""

    on_nonfinite: Literal["stop", "skip"] = "stop"
    """When a loss or gradient is not finite: stop before the update, or leave the update out and go on."""

    master_weights: MasterWeights = "float32"
    """`split`: weights in bfloat16, float32's other half in the optimizer; `stochastic`: bfloat16 only."""

    auto_fit: bool = False
    """Where memory runs out, halve the tokens of a micro-batch and repeat the step. One process only."""

    loraplus_lr_ratio: Positive | None = None
    """LoRA+ (arXiv:2402.12354): the learning rate of LoRA's B is so many times that of A; null: the same."""

    embedding_learning_rate: Positive | None = None
    """Of the embeddings and the output layer, adapters on them too; null: training_args.learning_rate."""

    early_stopping: EarlyStopping | None = None
    """End the run when evaluations no longer improve; null: train to the last step."""


class EvaluationConfig(Section):
    """How predictions are scored. Read by `eval/`."""

    metrics: Annotated[tuple[Literal["rouge", "bleu"], ...], Field(strict=False)] = ("rouge", "bleu")
    """Which scores are computed."""

    turns: Literal["all", "last"] = "all"
    """Predict every assistant turn of a conversation, or the last one only."""

    limit: Count | None = None
    """At most so many conversations, from the top."""

    retain_file: str | None = None
    """A text or conversations not trained on: their loss before and after tells what was forgotten."""

    compare_with_base: bool = False
    """Evaluate the untrained model on test_file, too, before the first step: the report then shows the gain."""
