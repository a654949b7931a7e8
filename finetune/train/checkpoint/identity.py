"""What a run's numbers depend on, so that nobody continues one run with the settings of another. Pure.

    identity = {config: what matters of it, data: sha256, template: sha256, base: …, conversations_per_step,
                steps, environment: {world_size, threads, versions, …}}

Everything here is JSON and stands in every manifest. Secrets do not: keys that may change are left out.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any, Self

from finetune.base import comparable
from finetune.errors import ResumeMismatchError
from finetune.printing import Lines

_SHA256 = re.compile(r"\b([0-9a-z]{12})[0-9a-z]{52}\b")
MAY_CHANGE = (
    # where things lie: their content is compared instead
    "data_config.train_file",
    "data_config.train_file.*.file",
    "data_config.image_roots",
    "data_config.allow_remote_images",
    "model_config.chat_template",
    "model_config.trust_remote_code",
    "training_args.output_dir",
    # evaluation and what it is made with
    "data_config.val_file*",
    "data_config.test_file",
    "evaluation.*",
    "training_args.*eval*",
    "training_args.predict_with_generate",
    "training_args.generation_*",
    "training_args.load_best_model_at_end",
    "training_args.metric_for_best_model",
    "training_args.greater_is_better",
    "run.early_stopping*",
    # saving and logging
    "training_args.save_*",
    "training_args.log*",
    "training_args.report_to",
    "training_args.run_name",
    "training_args.project",
    # devices, memory and speed: where a step is computed, not what it is
    "data_config.num_proc",
    "model_config.attention",
    "run.tokens_per_micro_batch",
    "run.auto_fit",
    "run.on_nonfinite",
    "training_args.use_cpu",
    "training_args.gradient_checkpointing*",
    "training_args.deepspeed*",
    "training_args.fsdp*",
    "training_args.ddp_*",
    "training_args.torch_compile*",
    # how long: `steps` is compared instead, and may grow
    "training_args.max_steps",
    "training_args.num_train_epochs",
)
"""Config keys that a resumed run may set differently; `*` also stands for whole sub-sections."""

STEP_KEYS = (
    "training_args.per_device_train_batch_size",
    "training_args.gradient_accumulation_steps",
    "run.conversations_per_step",
)
"""Config keys that matter only through the size of a step."""

AS_STORED = "as stored"
"""The dtype of products in a checkpoint that tells none."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The identity of a run; every field is plain JSON."""

    config: Mapping[str, Any]
    """Dotted YAML key -> value, without the keys that may change."""
    data: Any
    """sha256 of the training examples (one, or one per file)."""
    template: str
    """Fingerprint of chat template and tokenizer."""
    base: Mapping[str, Any]
    """The base model, as `base_identity` describes it."""
    conversations_per_step: int
    steps: int
    """Optimizer steps planned in all; a resumed run may plan more."""
    environment: Mapping[str, Any]
    """What decides the last bits only: `world_size`, `tokens_per_micro_batch`, `versions`, `threads` …"""
    recompute: int | None = None
    """Interval of the layers that are computed a second time in the backward pass; 0: none; None: not told."""
    validation: Mapping[str, str] | None = None
    """Name -> sha256 of each validation file: what the best checkpoint is judged by. It may change."""

    @classmethod
    def of(cls, config: Mapping[str, Any], **rest: Any) -> Self:
        """From `Config.as_yaml()` and the other fields by name."""
        return cls(config=what_matters(config), **rest)

    def as_dict(self) -> dict[str, Any]:
        """As JSON gives it back: equal to what a manifest holds, lists for tuples."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain


def what_matters(config: Mapping[str, Any]) -> dict[str, Any]:
    """A YAML-shaped config as dotted keys, without those that may change between the runs of one training."""
    return {key: value for key, value in flatten(config).items() if not _may_change(key)}


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings, and lists of mappings, as one mapping with dotted keys, in their order."""
    flat: dict[str, Any] = {}
    for name, item in value.items():
        nested = _as_mapping(item)
        flat |= {f"{prefix}{name}": item} if nested is None else flatten(nested, f"{prefix}{name}.")
    return flat


def _as_mapping(value: Any) -> Mapping[str, Any] | None:
    if isinstance(value, Mapping) and value:
        return value
    if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        return {str(index): item for index, item in enumerate(value)}
    return None


def _may_change(key: str) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in MAY_CHANGE)


def kept_conversations_per_step(saved: Mapping[str, Any], now: Mapping[str, Any]) -> int:
    """The size of a step to go on with, from two identities as dicts.

    Whoever changes only the number of processes keeps the checkpoint's; whoever changes a batch key means it,
    and gets what it now gives (which `compare` then refuses unless it comes to the same).
    """
    chosen = now if _step_keys(saved) != _step_keys(now) else saved
    return int(chosen["conversations_per_step"])


def kept_tokens(saved: Mapping[str, Any]) -> int | None:
    """The tokens of a micro-batch in a checkpoint's identity; None where it does not tell."""
    tokens = saved["environment"].get("tokens_per_micro_batch")
    return tokens if isinstance(tokens, int) else None


def kept_compute_dtype(saved: Mapping[str, Any]) -> str:
    """The dtype of the products in a checkpoint's identity; one that does not tell computed as it is stored."""
    return str(saved["environment"].get("compute_dtype") or AS_STORED)


def _step_keys(identity: Mapping[str, Any]) -> list[Any]:
    return [identity["config"].get(key) for key in STEP_KEYS]


def compare(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Check that a run may continue a checkpoint; both identities as dicts (`Identity.as_dict`, a manifest's).

    Returns what is worth saying: differences after which the numbers agree, but not to the last bit.
    Raises ResumeMismatchError naming every difference that would make it another training.
    """
    kept = kept_conversations_per_step(saved, now)
    differences = [
        *_differences(_comparable(saved), _comparable({**now, "base": comparable(saved["base"], now["base"])})),
        *_differences(
            {"conversations_per_step": saved["conversations_per_step"]}, {"conversations_per_step": kept}
        ),
    ]
    if now["steps"] < saved["steps"]:
        differences.append(
            f"steps: {saved['steps']} in the checkpoint, {now['steps']} now; only more are possible"
        )
    if differences:
        heading = "the checkpoint was trained with other settings; set them back, or begin anew with RESUME no:"
        raise ResumeMismatchError(Lines([heading, *(f"  {line}" for line in differences)]))
    return [
        f"{line}: the results will agree, but not to the last bit"
        for line in _differences(flatten(saved["environment"]), flatten(now["environment"]))
    ]


def _comparable(identity: Mapping[str, Any]) -> dict[str, Any]:
    config = {
        key: value for key, value in identity["config"].items() if not _may_change(key) and key not in STEP_KEYS
    }
    return {**config, **_only(identity, ("data", "template", "base"))}


def _only(identity: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return flatten({key: identity[key] for key in keys})


def _differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    keys = dict.fromkeys([*saved, *now])
    return [
        f"{key}: {_spell(saved, key)} in the checkpoint, {_spell(now, key)} now"
        for key in keys
        if saved.get(key) != now.get(key)
    ]


def _spell(values: Mapping[str, Any], key: str) -> str:
    value = values.get(key)
    return "nothing" if value is None else _SHA256.sub(r"sha256 \1…", str(value))
