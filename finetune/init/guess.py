"""From what was counted to a configuration, with a reason for every value: pure."""

import json
import math
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

Method = Literal["lora", "qlora", "p-tuning", "full"]
_SMALL_WIDTH = 1024
_LARGE_IMAGE = 1280  # tokens: about a megapixel
_ENOUGH = 50  # conversations, from which some can be held back


@dataclass(frozen=True, slots=True)
class Survey:
    """What is known of data and model.

    rows: of every file. lengths, answers: percentile -> most tokens of that share of the conversations, and of
    the learnt turns (50, 90, 95, 99, 100). context: most tokens the model can see, width: its hidden
    size; 0 where nobody knows. pictured: records of all files that have images. largest_image: tokens of the
    largest one. remote_images: they may be fetched.
    """

    train: tuple[str, ...]
    val: str | None
    test: str | None
    rows: Mapping[str, int]
    format: str
    why: str
    lengths: Mapping[int, int]
    answers: Mapping[int, int]
    context: int = 0
    width: int = 0
    chat_template: tuple[str, str] | None = None
    """Its name or file, and why it is taken in the place of the checkpoint's own."""
    drops_thoughts: bool = False
    pictured: int = 0
    largest_image: int = 0
    remote_images: bool = False

    @property
    def conversations(self) -> int:
        """In the training files."""
        return sum(self.rows[name] for name in self.train)

    @property
    def small_model(self) -> bool:
        """Whether this is a model for trying things out, which learns best in large steps."""
        return 0 < self.width < _SMALL_WIDTH


@dataclass(frozen=True, slots=True)
class Guess:
    """One line of the YAML: a dotted key, its value as YAML spells it, and why.

    Without a value the key is only mentioned, in a comment.
    """

    key: str
    value: str
    why: str


def guess(survey: Survey, method: Method) -> list[Guess]:
    """Every line, in the order of the file."""
    return [
        *_data(survey),
        *_lengths(survey),
        *_method(survey, method),
        *_steps(survey, method),
        *_saving(survey),
        *_scoring(survey),
    ]


def _data(survey: Survey) -> Iterator[Guess]:
    yield Guess("data_config.train_file", _train_files(survey), f"{survey.conversations:,} records")
    if survey.val:
        yield Guess("data_config.val_file", quoted(survey.val), f"{survey.rows[survey.val]:,} records")
    else:
        yield Guess("data_config.val_file", "", _hold_back(survey))
    if survey.test:
        yield Guess("data_config.test_file", quoted(survey.test), f"{survey.rows[survey.test]:,} records")
    yield Guess("data_config.format", survey.format, survey.why)
    if survey.drops_thoughts:
        yield Guess("data_config.thinking", "drop", "the model's chat template has no words for thoughts")
    if survey.largest_image > _LARGE_IMAGE:
        why = (
            f"an image takes up to {survey.largest_image:,} tokens; {_LARGE_IMAGE} scales the larger ones down"
        )
        yield Guess("data_config.max_image_tokens", "", why)
    if survey.remote_images:
        yield Guess("data_config.allow_remote_images", "true", "--allow-remote-images was given")


def _train_files(survey: Survey) -> str:
    if len(survey.train) == 1:
        return quoted(survey.train[0])
    return f"[{', '.join(f'{{file: {quoted(name)}}}' for name in survey.train)}]"


def _hold_back(survey: Survey) -> str:
    """How to come to a validation file."""
    if survey.conversations < _ENOUGH:
        return "none found, and too few records to hold some back"
    part = max(10, min(500, survey.conversations // 20))
    if len(survey.train) > 1 or not survey.train[0].endswith(".jsonl"):
        return f"none found; move about {part} records into a dev file, and run init again"
    name = shlex.quote(survey.train[0])
    first = f"head -n {survey.conversations - part} {name} > split/train.jsonl"
    return f"none found; mkdir split; {first}; tail -n {part} {name} > split/dev.jsonl; and init split"


def _lengths(survey: Survey) -> Iterator[Guess]:
    whole, answer = _nearly_all(survey.lengths), _nearly_all(survey.answers)
    if survey.context:
        answer = min(answer, survey.context // 2)
        whole = min(whole, survey.context - answer)
    yield Guess("max_input_length", str(whole), _share_that_fits(survey, whole + answer))
    yield Guess("max_output_length", str(answer), f"the longest answer has {survey.answers[100]:,} tokens")


def _nearly_all(lengths: Mapping[int, int]) -> int:
    """Room for the longest, or for all but one in a hundred where a few are far longer than all others."""
    longest, most = lengths[100], lengths[99]
    return _rounded_up(longest if longest <= 2 * most else most)


def _rounded_up(tokens: float) -> int:
    """To a multiple of 32."""
    return max(32, 32 * math.ceil(tokens / 32))


def _share_that_fits(survey: Survey, limit: int) -> str:
    if survey.format == "text":
        return "both together are the tokens of one piece of a document"
    longest = survey.lengths[100]
    if longest <= limit:
        return f"with the next, room for every conversation: the longest has {longest:,} tokens"
    fitting = max((percent for percent, length in survey.lengths.items() if length <= limit), default=0)
    share = f"at least {fitting} %" if fitting else "less than half"
    return f"with the next, room for {share} of the conversations; the longest has {longest:,} tokens"


def _method(survey: Survey, method: Method) -> Iterator[Guess]:
    if survey.chat_template:
        name, why = survey.chat_template
        yield Guess("model_config.chat_template", quoted(name), why)
    if survey.pictured:
        yield Guess("model_config.freeze", "[vision]", _why_frozen(survey, method))
    if method == "qlora":
        yield Guess("model_config.quantization", "nf4", "frozen weights in 4 bits (needs bitsandbytes)")
    if method == "full":
        yield Guess("peft_config", "", "absent: every weight of the model is trained")
    elif method == "p-tuning":
        yield Guess("peft_config.peft_type", "PREFIX_TUNING", "P-Tuning v2")
        tokens = "16" if survey.small_model else "128"
        yield Guess("peft_config.num_virtual_tokens", tokens, "more can hold more, and learn more slowly")
    else:
        rank = _by_size(survey.conversations, {1_000: 8, 20_000: 16}, 32)
        yield Guess("peft_config.peft_type", "LORA", "a small adapter beside frozen weights")
        yield Guess("peft_config.r", str(rank), "8 up to 1,000 records, 16 up to 20,000, then 32")
        yield Guess("peft_config.lora_alpha", str(2 * rank), "twice r")
        yield Guess("peft_config.target_modules", "all-linear", "or [query_key_value]: smaller, learns less")


def _why_frozen(survey: Survey, method: Method) -> str:
    """What it means for the tower and the projector of a model that sees."""
    records = f"{survey.pictured:,} of {sum(survey.rows.values()):,} records have images"
    if method == "full":
        return f"{records}; the model keeps its eyes, and learns what to say of what they see"
    return f"{records}; no adapter in the model's eyes. For pictures unlike photos and pages: []"


def _by_size(records: int, steps: Mapping[int, int], otherwise: int) -> int:
    """The value of the first step that `records` stays below."""
    return next((value for below, value in steps.items() if records < below), otherwise)


_RATES: Mapping[Method, tuple[str, str]] = {
    "lora": ("5e-4", "5e-3"),
    "qlora": ("2e-4", "5e-3"),
    "p-tuning": ("1e-2", "3e-2"),
    "full": ("5e-5", "1e-3"),
}
"""Method -> learning rate of a large model, and of a small one: those of configs/ and configs/tiny.

A prefix wants larger steps than the 5e-4 of GLM-4's YAML and its 3,000 steps: its keys are numbers around 2
(docs/experiments.md).
"""


def _steps(survey: Survey, method: Method) -> Iterator[Guess]:
    records = survey.conversations
    epochs = _by_size(records, {100: 10, 1_000: 5, 20_000: 3, 100_000: 2}, 1)
    batch = _by_size(records, {100: 4, 20_000: 8, 100_000: 16}, 32)
    steps = epochs * math.ceil(records / batch)
    size = "small" if survey.small_model else "large"
    yield Guess("training_args.output_dir", "output", "the run folder; finetune chat output, when it is done")
    yield Guess("training_args.num_train_epochs", str(epochs), f"about {steps:,} steps; few records need more")
    rate = _RATES[method][survey.small_model]
    yield Guess(
        "training_args.learning_rate", rate, f"{_NAMES[method]} on a {size} model; halve it if loss jumps"
    )
    yield Guess("training_args.lr_scheduler_type", "cosine", "large steps first, small ones at the end")
    yield Guess("training_args.warmup_steps", "0.05", "below 1: a share of all steps")
    yield Guess(
        "training_args.per_device_train_batch_size", str(batch), "conversations of one step, per process"
    )
    if method in ("full", "qlora") and not survey.small_model:
        yield Guess("training_args.gradient_checkpointing", "true", "less memory, a third more work")


_NAMES: Mapping[Method, str] = {
    "lora": "LoRA",
    "qlora": "QLoRA",
    "p-tuning": "P-Tuning v2",
    "full": "all weights",
}


def _saving(survey: Survey) -> Iterator[Guess]:
    yield Guess("training_args.logging_steps", "0.01", "a hundred points on the curve")
    yield Guess("training_args.save_steps", "0.2", "five checkpoints in a run")
    yield Guess("training_args.save_total_limit", "2", "the last two of them are kept, and the best")
    if survey.val:
        yield Guess("training_args.eval_strategy", "steps", f"on {survey.val}")
        yield Guess("training_args.eval_steps", "0.2", "at every checkpoint")
        yield Guess("training_args.load_best_model_at_end", "true", "the lowest loss there is the result")
    yield Guess("training_args.report_to", "none", "report.html is always written; or tensorboard, wandb, …")


def _scoring(survey: Survey) -> Iterator[Guess]:
    if survey.test is None or survey.format == "text":
        return
    yield Guess(
        "training_args.predict_with_generate", "true", "write answers, and score them by ROUGE and BLEU"
    )
    yield Guess("evaluation.limit", "100", "conversations answered; generation takes time")
    yield Guess(
        "evaluation.compare_with_base", "true", f"the untrained model on {survey.test}, to show the gain"
    )


def quoted(text: str) -> str:
    """A text as YAML needs it: bare where it can be nothing else."""
    plain = re.fullmatch(r"[A-Za-z][\w./-]*", text, re.ASCII) and not re.fullmatch(r"(?i)true|false|null", text)
    return text if plain else json.dumps(text, ensure_ascii=False)
