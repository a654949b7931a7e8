"""An adapter added into its base model's weights: a plain transformers folder, proven before it appears.

resolve -> refuse what cannot be merged -> ask base, and base + adapter -> merge -> write beside OUTPUT ->
read back -> ask again -> compare -> rename to OUTPUT
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from finetune import log
from finetune.base import compare_base
from finetune.chat.load import load_template
from finetune.chat.sight import read_sight
from finetune.chat.template import ChatTemplate
from finetune.config.schema import ModelConfig
from finetune.disk import is_utf8, refuse_existing, require_free, unpublished
from finetune.errors import ConfigError, ModelError
from finetune.export.card import card
from finetune.export.prompts import proof_prompts
from finetune.export.proof import Answers, Logits, Prompts, Proof, compare, logits_of
from finetune.export.publish import write_model
from finetune.export.weights import merge_weights, merged_dtypes
from finetune.folder import Source, read_run, resolve
from finetune.model.load import DTYPES, load_base, read_model_config
from finetune.model.tuning import load_adapter, read_adapter_settings
from finetune.model.vision import sees

MERGEABLE = ("LORA", "ADALORA", "IA3")
_PROMPT_KINDS = ("PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING")
_UNMERGEABLE_OPTIONS = {
    "alora_invocation_tokens": "the adapter acts only after its invocation tokens",
    "layer_replication": "several layers share one base weight",
}
_CPU = torch.device("cpu")
_BESIDES_WEIGHTS = 64_000_000
"""Bytes to keep free for tokenizer, template and configuration."""


@dataclass(frozen=True, slots=True)
class Merged:
    """A published folder, and why it can be trusted."""

    output: Path
    notes: tuple[str, ...]
    proof: Proof

    def lines(self) -> list[str]:
        """What the command prints."""
        return [*self.notes, *self.proof.lines(), f"merged model: {self.output}"]


@dataclass(frozen=True, slots=True)
class _Task:
    """What is merged into what, checked, before anything large is loaded."""

    source: Source
    adapter: Path
    adapter_config: Mapping[str, Any]
    settings: ModelConfig
    dtype: torch.dtype | None

    def load(self, model: str | Path) -> PreTrainedModel:
        return load_base(model, self.settings, device=_CPU)


def merge(
    run_or_adapter: str,
    output: Path,
    dtype: str | None = None,
    *,
    trust_remote_code: bool = False,
    other_base: bool = False,
) -> Merged:
    """Merge an adapter into its base and write the whole model to `output`, in `dtype` (None: the base's own).

    The base is loaded in full precision, also where the adapter was trained on a quantized one. `output`
    appears only when the model, read back from disk, was shown to say what base and adapter say together.
    `other_base`: also where the base has other weights now than those that the adapter was trained on.
    Raises FolderInUseError for an existing `output`, ConfigError for one whose name is no UTF-8,
    StorageError for a disk that is too small, and ModelError for what is no mergeable adapter and for a proof
    that fails.
    """
    refuse_existing(output)
    if not is_utf8(output):
        raise ConfigError(f"{str(output)!r}: not UTF-8; safetensors writes to no such path: give another")
    task = _plan(run_or_adapter, dtype, ModelConfig(trust_remote_code=trust_remote_code), other_base=other_base)
    _require_space(task, output)
    template = load_template(task.source.template, trust_remote_code=trust_remote_code, model=task.source.model)
    prompts = proof_prompts(template, task.source.run)
    with unpublished(output) as folder:
        base, tuned = _merge_into(folder, task, template, prompts)
        log.info("reading the merged model back and asking it")
        merged = task.load(folder)
        seeing = frozenset(number for number, prompt in enumerate(prompts) if prompt.pictures)
        said = logits_of(merged, prompts, read_sight(folder))
        proof = compare(Answers(base, tuned, said, seeing), merged.dtype)
        proof.require()
        text = card(output.name, task.source, task.adapter_config, proof.lines(), sees=sees(merged))
        (folder / "README.md").write_text(text, encoding="utf-8")
    return Merged(output, _notes(task.source), proof)


def _plan(run_or_adapter: str, dtype: str | None, settings: ModelConfig, *, other_base: bool) -> _Task:
    """Find out what is asked, and refuse what cannot be done."""
    source = resolve(run_or_adapter)
    if source.adapter is None:
        raise ModelError(f"{source.model}: a whole model, with no adapter to merge; it can be served as it is")
    if dtype is not None and dtype not in DTYPES:
        raise ConfigError(f"--dtype {dtype}: expected one of {', '.join(DTYPES)}")
    adapter_config = read_mergeable(source.adapter)
    _refuse_quantized(source, settings)
    _require_same_base(source, source.adapter, allowed=other_base)
    return _Task(source, source.adapter, adapter_config, settings, DTYPES[dtype] if dtype else None)


def _merge_into(folder: Path, task: _Task, template: ChatTemplate, prompts: Prompts) -> tuple[Logits, Logits]:
    """Write the merged model to `folder`; returns what the base alone and base + adapter said before."""
    log.info(f"loading {task.source.model}, and asking it with and without the adapter")
    model = task.load(task.source.model)
    target = task.dtype or model.dtype
    dtypes = merged_dtypes(model, target)
    base = logits_of(model, prompts, template.sight)
    tuned_model = load_adapter(model, task.adapter).model
    assert isinstance(tuned_model, PeftModel)
    tuned = logits_of(tuned_model, prompts, template.sight)
    log.info("merging and writing")
    write_model(merge_weights(tuned_model, dtypes, target, task.adapter), template, folder)
    return base, tuned


def read_mergeable(adapter: Path) -> Mapping[str, Any]:
    """adapter_config.json of an adapter that can be merged. Raises ModelError with the reason for any other."""
    config = read_adapter_settings(adapter)
    kind = config.get("peft_type")
    if kind in _PROMPT_KINDS:
        raise ModelError(
            f"{adapter}: {kind} puts learnt keys, values or embeddings before every conversation and changes "
            "no weight, so there is nothing to merge; talk to it as it is (finetune chat), or train with "
            "peft_type: LORA, which merges"
        )
    if kind not in MERGEABLE:
        raise ModelError(f"{adapter}: {kind} cannot be merged; {', '.join(MERGEABLE)} can")
    for option, reason in _UNMERGEABLE_OPTIONS.items():
        if config.get(option):
            raise ModelError(f"{adapter}: {option} cannot be merged: {reason}; talk to it as it is")
    return config


def _require_same_base(source: Source, adapter: Path, *, allowed: bool) -> None:
    """Raises ModelError where the base has other weights than the adapter learnt beside.

    The proof compares the merged model with this base and the adapter, and would hold for any base.
    """
    other = compare_base(adapter, source.model)
    if other is None:
        return
    if other.weights and not allowed:
        raise ModelError(
            f"{adapter}: {other}: {source.model}; put that base back or, if you mean to merge into this one, "
            "say --other-base"
        )
    log.warning(f"{adapter}: {other}: {source.model}")


def _refuse_quantized(source: Source, settings: ModelConfig) -> None:
    if "quantization_config" in read_model_config(source.model, settings).to_dict():
        raise ModelError(
            f"{source.model}: this base is stored quantized, and a merge into rounded weights would not be "
            "exact; name its full-precision model as base_model_name_or_path in "
            f"{source.adapter}/adapter_config.json"
        )


def _require_space(task: _Task, output: Path) -> None:
    """Ask before anything is loaded. A model on the Hub may not be here yet: the write itself then says it."""
    weights = sum(path.stat().st_size for path in Path(task.source.model).glob("*.safetensors"))
    stored = read_model_config(task.source.model, task.settings).dtype
    if task.dtype is not None and isinstance(stored, torch.dtype):
        weights = weights * task.dtype.itemsize // stored.itemsize
    if weights:
        require_free(output.parent, weights + _BESIDES_WEIGHTS, output.name)


def _notes(source: Source) -> tuple[str, ...]:
    notes = [f"merged {source.note}"]
    settings = read_run(source.run).get("config", {}).get("model_config") if source.run else None
    quantization = (settings or {}).get("quantization")
    if quantization:
        notes.append(f"trained on a base quantized to {quantization}; merged into the full-precision base")
    return tuple(notes)
