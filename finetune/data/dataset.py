"""data_config -> examples: read, parsed and encoded once; the next run of the same finds them in the cache."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from finetune.chat.load import load_template
from finetune.chat.messages import Conversation
from finetune.chat.template import ChatTemplate
from finetune.config.schema import Config, DataConfig, FileShare
from finetune.data.cache import cached
from finetune.data.examples import Examples
from finetune.data.ledger import FileAccount
from finetune.data.mixture import FileLoad, Shelf
from finetune.data.reading.formats import PlainText
from finetune.data.reading.intake import Intake, content_hash, raise_problems, resolve_file
from finetune.data.reading.records import Malformed
from finetune.data.reading.splits import Split
from finetune.errors import DataError, TrainingError, UnreadVariableError
from finetune.printing import Lines

__all__ = [
    "Examples",
    "FileAccount",
    "Sample",
    "load_conversations",
    "load_examples",
    "resolve_file",
    "template_under",
]

_SKIP = "correct them, or set data_config.on_bad_record: skip"
_LIMITS = "raise max_input_length or max_output_length"


@dataclass(frozen=True, slots=True)
class Sample:
    """A conversation to evaluate on, and where it stands: file:line."""

    conversation: Conversation
    origin: str


@dataclass(frozen=True, slots=True)
class _Part:
    """One file of the data set: its share, where it lies, and its content's hash."""

    share: FileShare
    path: Path
    sha256: str
    split: Split


def template_under(config: Config, model: str) -> ChatTemplate:
    """The chat template of `model` as a configuration wants it."""
    named = config.model.chat_template
    try:
        return load_template(
            model,
            chat_template=None if named is None else Path(named),
            trust_remote_code=config.model.trust_remote_code,
            options=config.model.chat_template_kwargs,
            thinking=config.data_config.thinking,
            max_image_tokens=config.data_config.max_image_tokens,
            special_tokens_in_text=config.data_config.special_tokens_in_text,
        )
    except UnreadVariableError as error:
        place = config.origins.get(f"model_config.chat_template_kwargs.{error.key}")
        raise UnreadVariableError(f"{place}: {error}", error.key) if place else error from None


def load_examples(
    data_config: DataConfig,
    files: str | Sequence[FileShare],
    data_dir: Path,
    template: ChatTemplate,
    *,
    max_length: int,
    split: Split = "training",
) -> Examples:
    """The encoded conversations of `files` (a file, or a mixture), at most `max_length` tokens each.

    split: what a folder is read for.

    Raises DataError with the first mistakes of all files (on_bad_record: error, overflow: error), and
    TrainingError if nothing is left to learn.
    """
    shares = [FileShare(file=files)] if isinstance(files, str) else list(files)
    paths = [resolve_file(share.file, data_dir) for share in shares]
    parts = [
        _Part(share, path, content_hash(path, split), split) for share, path in zip(shares, paths, strict=True)
    ]
    key = _key(parts, data_config, template, max_length)
    return cached(key, lambda: _encoded(parts, data_config, data_dir, template, max_length))


def _key(
    parts: Sequence[_Part], data_config: DataConfig, template: ChatTemplate, max_length: int
) -> dict[str, object]:
    """Everything that examples depend on."""
    named = (
        "format",
        "columns",
        "assistant_first",
        "train_on",
        "overflow",
        "on_bad_record",
        "image_roots",
        "allow_remote_images",
    )
    return {
        "files": [[str(part.path), part.sha256, part.share.weight, part.share.limit] for part in parts],
        "data_config": {name: getattr(data_config, name) for name in named},
        "max_length": max_length,
        "template": template.fingerprint,
    }


def _encoded(
    parts: Sequence[_Part],
    data_config: DataConfig,
    data_dir: Path,
    template: ChatTemplate,
    max_length: int,
) -> Examples:
    shelf = Shelf()
    loads = [
        FileLoad(part.share, Intake.under(data_config, data_dir, part.path, split=part.split), data_config)
        for part in parts
    ]
    for load in loads:
        load.encode_into(shelf, template, max_length)
    advice = (
        _LIMITS if template.sight is None else f"{_LIMITS}, shrink pictures by data_config.max_image_tokens"
    )
    _raise_mistakes(loads, data_config, advice)
    _refuse_changed(parts)
    accounts = tuple(load.account(part.sha256) for load, part in zip(loads, parts, strict=True))
    if len(shelf.lines) == 0:
        cuts = data_config.overflow == "truncate-left"
        advice += "" if cuts else ", or set data_config.overflow: truncate-left"
        raise TrainingError(_nothing_to_learn(accounts, max_length, advice))
    rejected = tuple(problem for load in loads for problem in load.intake.problems)
    return _examples(shelf, accounts, rejected)


def _refuse_changed(parts: Sequence[_Part]) -> None:
    """What was read must be what was hashed: the hash is the name of these examples from now on."""
    for part in parts:
        if part.path.exists() and content_hash(part.path, part.split) != part.sha256:
            raise DataError(f"{part.path}: changed while it was read; start again when it is complete")


def _raise_mistakes(loads: Sequence[FileLoad], data_config: DataConfig, advice: str) -> None:
    rows = sum(load.intake.rows for load in loads)
    if data_config.on_bad_record == "error":
        raise_problems([problem for load in loads for problem in load.intake.problems], rows, _SKIP)
    if data_config.overflow == "error":
        advice += ", or set data_config.overflow: drop or truncate-left"
        raise_problems([problem for load in loads for problem in load.too_long], rows, advice)


def _nothing_to_learn(accounts: Sequence[FileAccount], max_length: int, advice: str) -> str:
    lines = [f"{account.file}: nothing to learn: {account.ledger.lines()[0]}" for account in accounts]
    if any(account.ledger.fates["too_long"] for account in accounts):
        lines.append(f"the limit is {max_length} tokens; {advice}")
    return Lines(lines)


def _examples(shelf: Shelf, accounts: tuple[FileAccount, ...], rejected: tuple[Malformed, ...]) -> Examples:
    return Examples(
        input_ids=np.frombuffer(shelf.ids, dtype=np.int32),
        loss_mask=np.frombuffer(shelf.mask, dtype=np.bool_),
        offsets=np.frombuffer(shelf.ends, dtype=np.int64),
        first_example=np.frombuffer(shelf.first_example, dtype=np.int64),
        lines=np.frombuffer(shelf.lines, dtype=np.int64),
        sources=np.frombuffer(shelf.sources, dtype=np.int32),
        source_names=tuple(shelf.names),
        files=accounts,
        rejected=rejected,
        album=shelf.album.made(),
        columns=shelf.columns(),
    )


def load_conversations(
    data_config: DataConfig, file: str, data_dir: Path, split: Split = "test"
) -> list[Sample]:
    """The conversations of one file, to evaluate and generate on. Raises DataError as `load_examples` does."""
    path = resolve_file(file, data_dir)
    intake = Intake.under(data_config, data_dir, path, opens_images=True, split=split)
    samples: list[Sample] = []
    for record, conversation in intake.conversations():
        if isinstance(conversation, PlainText):
            reason = "plain text has no turn to answer"
            intake.refuse(Malformed(record.source, record.line, 0, reason, "E302"))
        else:
            samples.append(Sample(conversation, f"{record.source}:{record.line}"))
    if data_config.on_bad_record == "error":
        raise_problems(intake.problems, intake.rows, _SKIP)
    if not samples:
        raise DataError(f"{intake.path}: no conversation in it; {intake.rows} rows were read")
    return samples
