"""What generates text from a prompt, whichever library does the work."""

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from finetune.chat.template import ChatTemplate
from finetune.data.encode import Prompt
from finetune.errors import ConfigError

Finish = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen; names and meanings are transformers' `GenerationConfig`'s.

    Every value is stated here, so nothing in a checkpoint's own generation_config.json changes a result.
    `top_k` 0: no limit. With `seed` goes what is drawn for an answer's number and a token's position, whatever
    else is written beside or before it; the process's random numbers are left alone.
    """

    max_new_tokens: int = 512
    do_sample: bool = False
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    num_beams: int = 1
    repetition_penalty: float = 1.0
    length_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        _require(self.max_new_tokens >= 1, "max_new_tokens", self.max_new_tokens, "at least 1")
        _require(self.temperature > 0, "temperature", self.temperature, "above 0 (do_sample: false is greedy)")
        _require(0 < self.top_p <= 1, "top_p", self.top_p, "above 0 and at most 1")
        _require(self.top_k >= 0, "top_k", self.top_k, "at least 0")
        _require(self.num_beams >= 1, "num_beams", self.num_beams, "at least 1")
        _require(0 <= self.seed < 2**63, "seed", self.seed, "at least 0 and below 2^63")
        _require(self.repetition_penalty > 0, "repetition_penalty", self.repetition_penalty, "above 0")


class AnswerNumber(NamedTuple):
    """Which conversation of its file an answer belongs to, and which of its messages it is; both from 0."""

    conversation: int
    turn: int = 0


@dataclass(frozen=True, slots=True)
class Completion:
    """The ids a model wrote. With `finish` "stop" the stop id ends them: it tells a call from an answer."""

    ids: list[int]
    finish: Finish


FIRST = AnswerNumber(0)


def counted(prompts: Sequence[Prompt]) -> list[AnswerNumber]:
    """The numbers of prompts that are all there is."""
    return [AnswerNumber(i) for i in range(len(prompts))]


class Engine(Protocol):
    """A model that writes, and the template it was taught with."""

    @property
    def template(self) -> ChatTemplate: ...

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        batch_size: int = 1,
        numbers: Sequence[AnswerNumber] | None = None,
    ) -> list[Completion]:
        """One completion per prompt, in the order of the prompts.

        numbers: of the answers, on which it depends what is drawn for each; None: `counted`.
        """
        ...

    @property
    def has_adapter(self) -> bool:
        """Whether there is something for `without_adapter` to switch off."""
        ...

    def stream(
        self, prompt: Prompt, sampling: Sampling, number: AnswerNumber = FIRST
    ) -> Generator[str, None, Completion]:
        """The completion's text, piece by piece, without special tokens; returns the whole of it.

        Closing the generator ends the work. `num_beams` above 1 cannot be streamed.
        """
        ...

    def without_adapter(self) -> AbstractContextManager[None]:
        """Within it the base model answers, on the same weights; does nothing where there is no adapter."""
        ...


def _require(holds: bool, name: str, value: object, wanted: str) -> None:
    if not holds:
        raise ConfigError(f"generation: {name} is {value}; expected {wanted}")
