"""Pairs of keys that are each fine and cannot both hold. Checked when a Config is born, all at once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from finetune.config.arguments import TrainingArgs
from finetune.config.deepspeed import zero_stage
from finetune.config.fsdp import FsdpConfig, contradictions
from finetune.config.modules import PARTS
from finetune.config.sections import DataConfig, ModelConfig, RunConfig
from finetune.config.sharding import why_not_in_parts, why_not_shared
from finetune.config.tuning import LoraTuning, PrefixTuning, PromptTuning, Tuning
from finetune.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Conflict:
    """`keys` are the dotted YAML keys that disagree; the first is where the message points."""

    keys: tuple[str, ...]
    message: str


class ConflictsError(ValueError):
    """Every conflict of one configuration."""

    def __init__(self, conflicts: Sequence[Conflict]) -> None:
        super().__init__("; ".join(f"{conflict.keys[0]}: {conflict.message}" for conflict in conflicts))
        self.conflicts = tuple(conflicts)


def find_conflicts(
    data: DataConfig, model: ModelConfig, tuning: Tuning | None, args: TrainingArgs, run: RunConfig
) -> list[Conflict]:
    """All conflicts of a configuration whose sections are each valid."""
    return [
        *_evaluation_without_data(data, args),
        *_learns_what_is_skipped(data),
        *_best_checkpoint(args),
        *_metric_of_one_file(data, args),
        *_best_steps(args),
        *_early_stopping(args, run),
        *_schedule(args),
        *_placement(args),
        *_sharding(model, tuning, args),
        *_tuning(model, tuning, args),
        *_adapter_options(tuning),
        *_master_weights(model, tuning, args, run),
        *_learning_rates(model, tuning, run),
    ]


def find_idle(files: DataConfig, args: TrainingArgs) -> list[str]:
    """One line for each key that does nothing beside the others, and harms nothing."""
    evaluation = args.evaluation
    evaluates = evaluation.eval_strategy != "no" or evaluation.eval_on_start
    if evaluation.predict_with_generate and not evaluates and files.test_file is None:
        return [
            "training_args.predict_with_generate has no effect: nothing is ever evaluated; set eval_strategy "
            "and data_config.val_file, or data_config.test_file"
        ]
    return []


def _args(*keys: str) -> tuple[str, ...]:
    return tuple(f"training_args.{key}" for key in keys)


def _evaluation_without_data(files: DataConfig, args: TrainingArgs) -> Iterator[Conflict]:
    evaluation = args.evaluation
    evaluates = evaluation.eval_strategy != "no" or evaluation.eval_on_start
    if evaluates and files.val_file is None:
        key = "eval_strategy" if evaluation.eval_strategy != "no" else "eval_on_start"
        yield Conflict(
            (*_args(key), "data_config.val_file"), "there is nothing to evaluate on; give data_config.val_file"
        )


def _learns_what_is_skipped(data: DataConfig) -> Iterator[Conflict]:
    if data.thinking == "skip-empty" and data.train_on == "everything":
        yield Conflict(
            ("data_config.thinking", "data_config.train_on"),
            "skip-empty leaves empty thoughts as context, and train_on: everything learns them too; remove one",
        )


def _best_checkpoint(args: TrainingArgs) -> Iterator[Conflict]:
    saving, evaluation = args.saving, args.evaluation
    if saving.load_best_model_at_end and saving.save_only_model:
        yield Conflict(
            _args("load_best_model_at_end", "save_only_model"),
            "the best is taken back from its training state, which save_only_model leaves out; remove one",
        )
    if saving.save_strategy == "best" and evaluation.eval_strategy == "no":
        yield Conflict(_args("save_strategy", "eval_strategy"), "best needs evaluations; set eval_strategy")
    if saving.save_strategy == "best" and saving.metric_for_best_model is None:
        yield Conflict(
            _args("save_strategy", "metric_for_best_model"), "best needs metric_for_best_model, such as loss"
        )
    metric = (saving.best_metric or "eval_loss").partition("/")[0]
    if metric != "eval_loss" and not evaluation.predict_with_generate:
        yield Conflict(
            _args("metric_for_best_model", "predict_with_generate"),
            "a score needs generated answers; set predict_with_generate: true, or use loss",
        )


def _metric_of_one_file(files: DataConfig, args: TrainingArgs) -> Iterator[Conflict]:
    """`loss/NAME` names a file that is evaluated."""
    name = (args.saving.best_metric or "").partition("/")[2]
    if name and name not in files.val_files:
        known = ", ".join(filter(None, files.val_files)) or "only one, without a name"
        yield Conflict(
            (*_args("metric_for_best_model"), "data_config.val_file"),
            f"no validation file is called {name}; there is {known}",
        )


def _best_steps(args: TrainingArgs) -> Iterator[Conflict]:
    """transformers' rule: at every checkpoint there must be an evaluation to judge it by."""
    saving, evaluation = args.saving, args.evaluation
    if not saving.load_best_model_at_end or saving.save_strategy == "best":
        return
    if saving.save_strategy != evaluation.eval_strategy:
        yield Conflict(
            _args("load_best_model_at_end", "save_strategy", "eval_strategy"),
            f"needs save_strategy and eval_strategy to be the same, found {saving.save_strategy} "
            f"and {evaluation.eval_strategy}",
        )
    elif saving.save_strategy == "steps" and not _multiple(saving.save_steps, args.steps_between_evaluations):
        yield Conflict(
            _args("save_steps", "eval_steps", "logging_steps"),
            f"load_best_model_at_end needs an evaluation at every checkpoint, so a multiple of eval_steps "
            f"({args.steps_between_evaluations:g}), found {saving.save_steps:g}",
        )


def _early_stopping(args: TrainingArgs, run: RunConfig) -> Iterator[Conflict]:
    if run.early_stopping is not None and args.evaluation.eval_strategy == "no":
        yield Conflict(
            ("run.early_stopping", *_args("eval_strategy")),
            "looks at evaluations, and there are none; set training_args.eval_strategy: steps or epoch",
        )


def _multiple(steps: float, of: float) -> bool:
    if (steps < 1) != (of < 1):
        return False
    return round(steps * 1_000_000) % round(of * 1_000_000) == 0


def _schedule(args: TrainingArgs) -> Iterator[Conflict]:
    """What a schedule needs, and what contradicts itself; single options are checked in library_options.py."""
    kind, given = args.schedule.lr_scheduler_type, args.schedule.lr_scheduler_kwargs or {}
    keys = _args("lr_scheduler_kwargs", "lr_scheduler_type")
    set_ones = {name for name, value in given.items() if value is not None}
    if kind in ("cosine_with_min_lr", "cosine_warmup_with_min_lr"):
        if not set_ones & {"min_lr", "min_lr_rate"}:
            yield Conflict(keys[::-1], f"{kind} needs lr_scheduler_kwargs: {{min_lr: …}} or {{min_lr_rate: …}}")
        if set_ones >= {"min_lr", "min_lr_rate"}:
            yield Conflict(_args("lr_scheduler_kwargs.min_lr_rate"), "says again what min_lr says; remove one")
    if kind == "warmup_stable_decay" and "num_decay_steps" not in set_ones:
        yield Conflict(keys[::-1], f"{kind} needs lr_scheduler_kwargs: {{num_decay_steps: …}}")
    end = given.get("lr_end", 1e-7)
    if kind == "polynomial" and isinstance(end, int | float) and end >= args.optimizer.learning_rate:
        yield Conflict(
            _args("lr_scheduler_kwargs.lr_end", "learning_rate"),
            f"expected an end below learning_rate ({args.optimizer.learning_rate:g}), found {end:g}",
        )


def _placement(args: TrainingArgs) -> Iterator[Conflict]:
    placement = args.placement
    if placement.deepspeed is not None and placement.fsdp:
        yield Conflict(_args("fsdp", "deepspeed"), "a model is sharded by DeepSpeed or by FSDP; remove one")
    if placement.fsdp_config not in (None, FsdpConfig()) and not placement.fsdp:
        yield Conflict(_args("fsdp_config", "fsdp"), "has no effect without fsdp; set fsdp: true")
    for key in contradictions(placement.fsdp, placement.fsdp_config or FsdpConfig()):
        yield Conflict(_args(f"fsdp_config.{key}", "fsdp"), "says something else than fsdp; remove one")
    if placement.gradient_checkpointing_kwargs and not placement.gradient_checkpointing:
        yield Conflict(
            _args("gradient_checkpointing_kwargs", "gradient_checkpointing"),
            "has no effect without gradient_checkpointing: true",
        )


def _sharding(model: ModelConfig, tuning: Tuning | None, args: TrainingArgs) -> Iterator[Conflict]:
    """What cannot be done to weights or an optimizer of which every process holds a part."""
    stage, key = _zero_stage(args), "deepspeed"
    if args.placement.sharding is not None:
        stage, key = 3, "fsdp"
    if stage and (why := why_not_in_parts(args.optimizer.optim)):
        yield Conflict(_args("optim", key), f"{why}; use adamw_torch where weights are sharded")
    if stage == 3 and model.quantization:
        yield Conflict(
            ("model_config.quantization", *_args(key)),
            "quantized weights cannot be sharded; use DeepSpeed's ZeRO-2, or no sharding",
        )
    how = key if key == "fsdp" else f"zero-{stage}"
    if stage and tuning is not None and (why := why_not_shared(tuning.model_dump(), how)):
        yield Conflict(("peft_config.peft_type", *_args(key)), f"{why}; use DeepSpeed's ZeRO-2, or no sharding")


def _zero_stage(args: TrainingArgs) -> int:
    try:
        return zero_stage(args.placement.deepspeed)
    except ConfigError:  # the file is missing or no JSON: told when files are looked for
        return 0


def _tuning(model: ModelConfig, tuning: Tuning | None, args: TrainingArgs) -> Iterator[Conflict]:
    if isinstance(tuning, PrefixTuning) and args.placement.gradient_checkpointing:
        yield Conflict(
            (*_args("gradient_checkpointing"), "peft_config.peft_type"),
            "a learnt prefix gets no gradient through recomputed activations; remove it for PREFIX_TUNING",
        )
    if tuning is None and model.quantization and model.adapter is None:
        yield Conflict(
            ("model_config.quantization", "peft_config", "model_config.adapter"),
            "quantized weights cannot be trained; add a peft_config (LORA makes this QLoRA) or remove it",
        )
    if (tuning is not None or model.adapter is not None) and set(model.freeze or ()) - set(PARTS):
        yield Conflict(
            ("model_config.freeze", "peft_config", "model_config.adapter"),
            "an adapter leaves every weight of the model as it is; remove freeze, or name parts of a vision "
            f"model that get no adapter ({', '.join(PARTS)})",
        )
    if tuning is not None and model.adapter is not None:
        yield Conflict(
            ("peft_config", "model_config.adapter"),
            "the adapter that is continued brings its own; remove one of them (--set peft_config=null)",
        )


_MASTERED = ("adamw_torch", "adamw_torch_fused", "adamw_8bit", "adamw_bnb_8bit")
"""Optimizers that there are for bfloat16 weights: the moments of the last two take 8 bits."""


def _master_weights(
    model: ModelConfig, tuning: Tuning | None, args: TrainingArgs, run: RunConfig
) -> Iterator[Conflict]:
    """`split` and `stochastic` are for all weights of a bfloat16 model in one process."""
    if run.master_weights == "float32":
        return
    own, kept = "run.master_weights", f"{run.master_weights} keeps the weights in bfloat16"
    if tuning is not None or model.adapter is not None:
        other = "peft_config" if tuning is not None else "model_config.adapter"
        yield Conflict((own, other), "is for full fine-tuning; an adapter is small, and learns in float32")
    for key, there in (("deepspeed", args.placement.deepspeed), ("fsdp", args.placement.sharding)):
        if there is not None:
            yield Conflict(
                (own, *_args(key)), f"is for one process; {key} keeps weights its own way, remove one"
            )
    if model.dtype in ("float32", "float16"):
        yield Conflict((own, "model_config.dtype"), f"{kept}; set model_config.dtype: bfloat16")
    if args.optimizer.optim not in _MASTERED:
        offer = ", ".join(_MASTERED)
        yield Conflict((own, *_args("optim")), f"{kept}, which {args.optimizer.optim} cannot; use {offer}")


def _learning_rates(model: ModelConfig, tuning: Tuning | None, run: RunConfig) -> Iterator[Conflict]:
    """What can be known before the model is loaded: that there is no LoRA."""
    lora = isinstance(tuning, LoraTuning) or model.adapter is not None
    if run.loraplus_lr_ratio is not None and not lora:
        yield Conflict(
            ("run.loraplus_lr_ratio", "peft_config.peft_type"),
            "is the learning rate of LoRA's B, and no LoRA is trained; remove it, or set peft_type: LORA",
        )


def _adapter_options(tuning: Tuning | None) -> Iterator[Conflict]:
    match tuning:
        case PromptTuning(prompt_tuning_init="TEXT", prompt_tuning_init_text=None):
            yield _peft("prompt_tuning_init", "prompt_tuning_init_text", "TEXT needs prompt_tuning_init_text")
        case PromptTuning(tokenizer_kwargs=dict()) if tuning.prompt_tuning_init != "TEXT":
            yield _peft("tokenizer_kwargs", "prompt_tuning_init", "needs prompt_tuning_init: TEXT")
        case PrefixTuning() as prefix:
            yield from _prefix(prefix)
        case LoraTuning() as lora:
            yield from _low_rank(lora)


def _prefix(tuning: PrefixTuning) -> Iterator[Conflict]:
    how = tuning.prefix_init
    if tuning.prefix_init_text is not None and how in ("tokens", "random"):
        yield _peft("prefix_init_text", "prefix_init", f"has no effect with prefix_init: {how}; remove one")
    if tuning.init_weights is not None and (how in ("text", "tokens") or tuning.prefix_init_text is not None):
        yield _peft("init_weights", "prefix_init", "starts the prefix as zeros, prefix_init as keys and values")


def _low_rank(tuning: LoraTuning) -> Iterator[Conflict]:
    for key, value in (
        ("layers_to_transform", tuning.layers_to_transform),
        ("layers_pattern", tuning.layers_pattern),
    ):
        if value is not None and isinstance(tuning.target_modules, str):
            yield _peft(key, "target_modules", "needs target_modules as a list of names")
    if tuning.layers_pattern and tuning.layers_to_transform is None:
        yield _peft("layers_pattern", "layers_to_transform", "has no effect without layers_to_transform")
    if tuning.lora_bias:
        if tuning.use_dora:
            yield _peft("lora_bias", "use_dora", "peft has no bias for DoRA; remove one")
        if not isinstance(tuning.init_lora_weights, bool):
            yield _peft("lora_bias", "init_lora_weights", "needs init_lora_weights: true or false")
    if tuning.init_lora_weights == "orthogonal" and tuning.r % 2:
        yield _peft("init_lora_weights", "r", f"orthogonal needs an even r, found {tuning.r}")


def _peft(key: str, other: str, message: str) -> Conflict:
    return Conflict((f"peft_config.{key}", f"peft_config.{other}"), message)
