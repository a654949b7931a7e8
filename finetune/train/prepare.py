"""The part of a run that needs no torch: template, data and the size of things. Cheap, so it fails first."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finetune import log, world
from finetune.base import base_identity
from finetune.chat.template import ChatTemplate
from finetune.config.schema import Config
from finetune.data.dataset import Examples, Sample, load_conversations, load_examples, template_under
from finetune.data.plan import Plan
from finetune.data.reading.splits import Split, split_of
from finetune.errors import ConfigError, ModelError, some_of
from finetune.estimate.choose import ENOUGH_TOKENS, Choice, choose_setup, may_recompute, told
from finetune.estimate.precision import NAMES, Precision, precision_of
from finetune.estimate.processor import Processor
from finetune.estimate.setup import Device, Setup, bound_to_dtype
from finetune.estimate.shape import read_shape
from finetune.estimate.work import Work
from finetune.manifest import read_manifest
from finetune.train.checkpoint.identity import (
    AS_STORED,
    Identity,
    kept_compute_dtype,
    kept_conversations_per_step,
    kept_tokens,
)
from finetune.train.checkpoint.resume import check_identity
from finetune.train.continued import check_adapter
from finetune.train.record import library_versions


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything a run is made of, but the model."""

    model: str

    config: Config
    template: ChatTemplate
    examples: Examples
    validation: Mapping[str, Examples]
    """By the names of `DataConfig.val_files`."""
    validation_samples: Mapping[str, Sequence[Sample]]
    test: Examples | None
    test_samples: Sequence[Sample]
    retain: Examples | None
    """Of `evaluation.retain_file`."""
    conversations_per_step: int
    base: Mapping[str, Any]
    """What tells this base model from another (`base_identity`)."""
    tokens: int | None = None
    """Of a micro-batch; None: as `tokens_per_micro_batch: auto` will choose."""
    recompute: int | None = None
    """Interval of the layers that are computed a second time; 0: none; None: as the estimate chooses."""
    choice: Choice | None = None
    """What was chosen, and the memory it is estimated to take."""
    compute_dtype: str | None = None
    """Of the frozen weights' products, by torch's name; None: not decided, or as stored."""
    precision: Precision | None = None
    """How that dtype comes about; None: not decided, or as stored."""

    def plan(self, tokens_per_micro_batch: int | None = None, *, equal_micro_batches: bool = False) -> Plan:
        """The steps of the run; `tokens_per_micro_batch` None: as configured or chosen."""
        return make_plan(
            self.config,
            self.examples,
            self.conversations_per_step,
            tokens_per_micro_batch or self.tokens,
            equal_micro_batches=equal_micro_batches,
        )

    @property
    def total_steps(self) -> int:
        schedule = self.config.training_args.schedule
        return self.plan().total(schedule.max_steps, schedule.num_train_epochs)

    @property
    def identity(self) -> Identity:
        """What the numbers of this run depend on."""
        return Identity.of(
            self.config.as_yaml(),
            data=self.examples.sha256,
            template=self.template.fingerprint,
            base=self.base,
            conversations_per_step=self.conversations_per_step,
            steps=self.total_steps,
            environment={
                "threads": int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0))),
                "world_size": world.world_size(),
                "tokens_per_micro_batch": self.tokens,
                "compute_dtype": None if self.compute_dtype == AS_STORED else self.compute_dtype,
                "versions": library_versions(),
            },
            recompute=self.recompute,
            validation={name: examples.sha256 for name, examples in self.validation.items()},
        )

    def accounts(self) -> list[dict[str, Any]]:
        """What run.json says of the data."""
        splits: list[tuple[dict[str, str], Examples]] = [({"split": "train"}, self.examples)]
        for name, examples in self.validation.items():
            splits.append(({"split": "validation"} | ({"name": name} if name else {}), examples))
        if self.test is not None:
            splits.append(({"split": "test"}, self.test))
        if self.retain is not None:
            splits.append(({"split": "retain"}, self.retain))
        return [
            {**split, **account.as_dict(), **_pictures(examples)}
            for split, examples in splits
            for account in examples.files
        ]

    def continuing(self, checkpoint: Path) -> "Prepared":
        """The same run, to go on from a checkpoint: its steps keep their size, and how they are computed.

        Raises ResumeMismatchError naming each setting that would make it another training.
        """
        saved = read_manifest(checkpoint).identity
        kept = self
        if self.tokens is None:
            kept = replace(kept, tokens=kept_tokens(saved))
        if self.recompute is None:
            kept = replace(kept, recompute=saved.get("recompute"))
        kept = replace(kept, compute_dtype=kept_compute_dtype(saved))
        identity = kept.identity
        check_identity(checkpoint, identity)
        return replace(kept, conversations_per_step=kept_conversations_per_step(saved, identity.as_dict()))

    def fitted(self, device: Device, free: int, processor: Processor, told_dtype: str) -> "Prepared":
        """The same run, with what it may decide for itself decided for `free` bytes on its device, and said.

        told_dtype: of the weights, as config.json has it. The model's files must be at hand; where they are
        not, nothing is estimated, and this is taken for their dtype.
        """
        ranks, begun_in = world.world_size(), self.compute_dtype
        try:
            shape = read_shape(self.model)
            setup = Setup.of(
                self.config, shape, device=device, ranks=ranks, processor=processor, begun_in=begun_in
            )
        except ModelError as error:
            log.info(f"the memory is not estimated: {error}")
            slowdown = processor.slowdown if device == "cpu" else {}
            bound = bound_to_dtype(self.config, ranks)
            asked = self.config.model.dtype
            precision = precision_of(told_dtype, asked, slowdown, begun_in=begun_in, bound=bound)
            tokens = self.tokens or self.plan().tokens_per_micro_batch
            return replace(self._computed(precision), tokens=tokens, recompute=self.recompute or 0)
        if self.recompute is not None:
            setup = replace(setup, recompute=self.recompute)
        seed = self.config.order_seed
        work = Work.of(self.examples, self.conversations_per_step, seed, ranks, self.template.sight)
        setup, choice = choose_setup(
            setup,
            work.in_layout_of(self.config, setup),
            free,
            tokens=self.tokens,
            may_recompute=self.recompute is None and may_recompute(self.config, setup),
        )
        for line in told(setup, choice, free, chosen=self.tokens is None):
            log.info(line)
        decided = replace(self, tokens=choice.tokens, recompute=choice.recompute, choice=choice)
        return decided._computed(setup.precision)

    def _computed(self, precision: Precision) -> "Prepared":
        """The same run, computed with this precision, which is said where it is worth a line."""
        if line := precision.line():
            log.warning(line) if precision.demanded else log.info(line)
        return replace(
            self, precision=precision, compute_dtype=NAMES.get(precision.computed, precision.computed)
        )


def _pictures(examples: Examples) -> dict[str, Any]:
    """What run.json says of the pictures of a split, where it has some."""
    album = examples.album
    return {"pictures": len(album), "pictures_sha256": album.sha256} if len(album) else {}


def prepare(config: Config, data_dir: Path, model: str) -> Prepared:
    """Load the template, encode the data and say what became of every record."""
    if config.model.adapter is not None:
        check_adapter(Path(config.model.adapter), model)
    template = template_under(config, model)
    files, scored = config.data_config, config.training_args.evaluation
    evaluates = scored.eval_strategy != "no" or scored.eval_on_start
    val_files = files.val_files if evaluates else {}
    return Prepared(
        model=model,
        config=config,
        template=template,
        examples=_encoded(config, files.train_file, data_dir, template, "train"),
        validation={
            name: _encoded(config, file, data_dir, template, f"validation {name}".rstrip())
            for name, file in val_files.items()
        },
        validation_samples=_samples_by_name(config, val_files, data_dir),
        test=_encoded_if(config, files.test_file, data_dir, template, "test"),
        test_samples=_samples(config, files.test_file, data_dir, "test"),
        retain=_retained(config, data_dir, template),
        conversations_per_step=conversations_per_step(config),
        base=base_identity(model),
        tokens=None if config.run.tokens_per_micro_batch == "auto" else config.run.tokens_per_micro_batch,
        recompute=_stated(config.training_args.placement.gradient_checkpointing),
    )


def _stated(recomputes: bool | None) -> int | None:
    """`gradient_checkpointing` as an interval of layers: all, none, or not decided."""
    return None if recomputes is None else int(recomputes)


def make_plan(
    config: Config,
    examples: Examples,
    conversations_per_step: int,
    tokens_per_micro_batch: int | None = None,
    *,
    equal_micro_batches: bool = False,
) -> Plan:
    """The steps of a run on `examples`; `tokens_per_micro_batch` None: as configured.

    `auto` holds at least the longest example.
    """
    wanted = tokens_per_micro_batch or config.run.tokens_per_micro_batch
    return Plan(
        examples.lengths,
        examples.supervised,
        examples.first_example,
        conversations_per_step,
        config.order_seed,
        world_size=world.world_size(),
        tokens_per_micro_batch=max(ENOUGH_TOKENS["cpu"], int(examples.lengths.max()))
        if wanted == "auto"
        else wanted,
        equal_micro_batches=equal_micro_batches,
        weights=examples.weights,
    )


def conversations_per_step(config: Config) -> int:
    """As stated outright, or as the batch sizes and the number of processes make it."""
    return config.run.conversations_per_step or config.training_args.batches.conversations(world.world_size())


def _encoded(config: Config, files: Any, data_dir: Path, template: ChatTemplate, split: str) -> Examples:
    max_length = config.max_input_length + config.max_output_length
    kind = split_of(split) or "training"
    examples = load_examples(config.data_config, files, data_dir, template, max_length=max_length, split=kind)
    if split == "train":
        _refuse_absent_tokens(config, examples, template)
    for account in examples.files:
        log.info(f"{split}: {account.file}: {account.format} ({account.why})")
        for line in account.ledger.lines():
            log.info(f"{split}: {line}")
        for remark in account.remarks:
            log.warning(f"{split}: {remark}")
    return examples


def _refuse_absent_tokens(config: Config, examples: Examples, template: ChatTemplate) -> None:
    """Refuse `trainable_token_indices` that no example holds: their embeddings would never learn."""
    named = getattr(config.peft_config, "trainable_token_indices", None) or ()
    listed = [one for group in named.values() for one in group] if isinstance(named, dict) else named
    if absent := examples.absent(list(dict.fromkeys(listed))):
        shown = some_of([f"{one} ({template.tokenizer.convert_ids_to_tokens(one)!r})" for one in absent])
        raise ConfigError(
            f"peft_config.trainable_token_indices: {shown} never occurs in the training data, and would not "
            "learn; leave it out, or where texts spell it, name it in data_config.special_tokens_in_text"
        )


def _retained(config: Config, data_dir: Path, template: ChatTemplate) -> Examples | None:
    """The text that must not be forgotten, all of it counted, in whatever format it is."""
    as_it_is = config.data_config.model_copy(update={"format": "auto", "train_on": "all", "columns": {}})
    config = config.model_copy(update={"data_config": as_it_is})
    return _encoded_if(config, config.evaluation.retain_file, data_dir, template, "retain")


def _encoded_if(
    config: Config, file: str | None, data_dir: Path, template: ChatTemplate, split: str
) -> Examples | None:
    return None if file is None else _encoded(config, file, data_dir, template, split)


def _samples_by_name(
    config: Config, files: Mapping[str, str], data_dir: Path
) -> Mapping[str, Sequence[Sample]]:
    """The conversations of each file to answer; nothing where only the loss is asked for."""
    found = {name: _samples(config, file, data_dir, "validation") for name, file in files.items()}
    return {name: samples for name, samples in found.items() if samples}


def _samples(config: Config, file: str | None, data_dir: Path, split: Split) -> Sequence[Sample]:
    """The conversations to answer: none where only the loss is asked for."""
    if file is None or not config.training_args.evaluation.predict_with_generate:
        return ()
    return load_conversations(config.data_config, file, data_dir, split)[: config.evaluation.limit]
