"""What the user asked for: one frozen `Config`, shaped like the YAML it was read from.

Every key has one owner, the room named above its section. Defaults are stated here and nowhere else.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from pydantic import Field, PrivateAttr, model_validator

from finetune.config.arguments import TrainingArgs
from finetune.config.conflicts import ConflictsError, find_conflicts, find_idle
from finetune.config.section import Count, Section
from finetune.config.sections import (
    DataConfig,
    EarlyStopping,
    EvaluationConfig,
    FileShare,
    ModelConfig,
    RunConfig,
)
from finetune.config.tuning import Tuning

__all__ = [
    "Config",
    "DataConfig",
    "EarlyStopping",
    "EvaluationConfig",
    "FileShare",
    "ModelConfig",
    "RunConfig",
    "TrainingArgs",
    "Tuning",
]


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a Config's values came from, what was renamed, mapped or dropped on the way, and what is odd."""

    origins: Mapping[str, str] = field(default_factory=dict)
    notices: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class Config(Section):
    """Everything a run was asked to do."""

    data_config: DataConfig
    """Which conversations, and what is learnt from them."""

    max_input_length: Count = 512
    """Tokens of a prompt at evaluation; a training example may have max_input_length + max_output_length."""

    max_output_length: Count = 512
    """Tokens of a generated answer at evaluation, where generation_config does not say max_new_tokens."""

    # pydantic keeps the name `model_config` for its own settings.
    model: ModelConfig = Field(default_factory=ModelConfig, alias="model_config")
    """How the base model is loaded."""

    peft_config: Tuning | None = None
    """Which adapter is trained; absent: the whole model."""

    training_args: TrainingArgs = Field(default_factory=TrainingArgs)
    """Names, meanings and defaults are those of transformers' Seq2SeqTrainingArguments."""

    run: RunConfig = Field(default_factory=RunConfig)
    """What a step is and what happens when one goes wrong."""

    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig)
    """How predictions are scored."""

    _provenance: Provenance = PrivateAttr(default=Provenance())

    @model_validator(mode="before")
    @classmethod
    def _answers_as_long_as_allowed(cls, values: Any) -> Any:
        """Where generation_config does not say max_new_tokens, it is max_output_length."""
        match values:
            case {"max_output_length": int(length)} if length > 0:
                return values | _answers_of(length, values.get("training_args", {}))
        return values

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> "Config":
        conflicts = find_conflicts(self.data_config, self.model, self.peft_config, self.training_args, self.run)
        if conflicts:
            raise ConflictsError(conflicts)
        return self

    def model_post_init(self, context: Any) -> None:
        if isinstance(context, Provenance):
            self._provenance = context

    @property
    def origins(self) -> Mapping[str, str]:
        """Dotted YAML key -> "path:line" or "--set"; a key that stands at its default is absent."""
        return MappingProxyType(dict(self._provenance.origins))

    @property
    def notices(self) -> tuple[str, ...]:
        """One line for each key that was renamed, mapped or has no effect."""
        return (*self._provenance.notices, *find_idle(self.data_config, self.training_args))

    @property
    def warnings(self) -> tuple[str, ...]:
        """One line for each value that can be meant, but hardly is, with its place."""
        return self._provenance.warnings

    @property
    def order_seed(self) -> int | None:
        """Of the order of conversations in an epoch; None: that of the data."""
        return self.training_args.batches.order_seed if self.data_config.shuffle else None

    def as_yaml(self) -> dict[str, Any]:
        """All values, defaults too, in the YAML's shape; `load.parse_config` makes an equal Config of it."""
        plain = _plain(self.model_dump(by_alias=True))
        assert isinstance(plain, dict)
        return plain

    def __eq__(self, other: object) -> bool:
        """Equal when they ask for the same, wherever the values came from."""
        return isinstance(other, Config) and self.as_yaml() == other.as_yaml()


def _answers_of(length: int, training_args: Any) -> dict[str, Any]:
    """The training_args whose generation_config writes `length` tokens, unless it says how many."""
    if not isinstance(training_args, dict):
        return {}
    generation = training_args.get("generation_config", {})
    if not isinstance(generation, dict) or "max_new_tokens" in generation:
        return {}
    return {"training_args": training_args | {"generation_config": {"max_new_tokens": length} | generation}}


def _plain(value: Any) -> Any:
    """The same value in what YAML and JSON have: maps, lists, texts, numbers, booleans and null."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
