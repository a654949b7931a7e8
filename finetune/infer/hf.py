"""Generation on a loaded transformers model, plain or with any of peft's adapters.

Where the model's layers keep keys and values and nothing else, answers are written by a `Decoder`. Beams,
streams, weights in shares, and models that it would be wrong for are left to transformers' own `generate`, on
padded batches and stock attention.

The engine leaves a model as it found it, so that a training loop can call it between two steps.
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.generation.streamers import BaseStreamer

from finetune import log
from finetune.chat.messages import Conversation, Message
from finetune.chat.template import ChatTemplate
from finetune.data.encode import WEIGHT, Example, Prompt, prompt_of
from finetune.data.reading.formats import parse_conversation
from finetune.data.reading.record import Record
from finetune.errors import ConfigError, MemoryExhaustedError, ModelError, is_out_of_memory
from finetune.infer.choice import random_bits
from finetune.infer.decode import Decoder, Virtual, trial
from finetune.infer.engine import FIRST, AnswerNumber, Completion, Finish, Sampling, counted
from finetune.infer.padded import Padded
from finetune.infer.slots import SLOTS, why_no_slots
from finetune.infer.text import TextPieces
from finetune.infer.worker import Worker
from finetune.model.attention import PLAIN, STOCK, attention_in_use, stock_attention, use_attention
from finetune.model.batch import collate, require_known_ids
from finetune.model.head import SupervisedLoss
from finetune.model.layout import apart, tolerance
from finetune.model.tuned import Kind, Tuned
from finetune.model.vision import Vision, require_vision, sees

if TYPE_CHECKING:
    from peft import PeftModel

_LEFT_AS_IS = (STOCK, PLAIN)
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""peft's ways to start an adapter that change the base's weights when it is put on."""


class HFEngine:
    """An `Engine` over a loaded `PreTrainedModel` or `PeftModel`.

    device: where it computes; None: where its weights lie. `lockstep`: processes share its weights, and all
    generate as long as any of them does. `vision`: the model's eyes, where somebody has opened them already.
    """

    def __init__(
        self,
        model: "PreTrainedModel | PeftModel",
        template: ChatTemplate,
        *,
        device: torch.device | None = None,
        lockstep: bool = False,
        vision: Vision | None = None,
    ) -> None:
        self.model = model
        self.template = template
        self._lockstep = lockstep
        base = model if isinstance(model, PreTrainedModel) else model.get_base_model()
        self._base = cast(PreTrainedModel, base)
        self._device = device or self._base.device
        self._adapter_on = self.has_adapter
        self._opened_eyes = vision

    @property
    def has_adapter(self) -> bool:
        """Whether there is something for `without_adapter` to switch off."""
        return not isinstance(self.model, PreTrainedModel)

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] = (),
        **sampling: Any,
    ) -> Message:
        """The answer to OpenAI's `messages` (and `tools`): its content, thoughts and calls, read back.

        sampling: fields of `Sampling`, such as max_new_tokens; greedy without any. Raises DataError for
        messages that are no conversation, TemplateError for one that the template cannot print.
        """
        content = {"messages": list(messages), **({"tools": list(tools)} if tools else {})}
        conversation = parse_conversation(Record(content, "messages", 1), "messages")
        assert isinstance(conversation, Conversation)  # `messages` are never a plain text
        (completion,) = self.generate([prompt_of(self.template, conversation)], Sampling(**sampling))
        return self.template.parse(completion.ids)

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        batch_size: int = 1,
        numbers: Sequence[AnswerNumber] | None = None,
    ) -> list[Completion]:
        """One completion per prompt, in the order of the prompts; longest first, so that memory runs out early.

        Results do not depend on the batches, but where rounding of the logits decides.
        """
        numbers = counted(prompts) if numbers is None else numbers
        if prompts and self._why_not_slots(prompts, sampling) is None:
            return self._write(prompts, numbers, sampling, batch_size)
        order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
        at_once = 1 if _draws_beams(sampling) else batch_size
        done: dict[int, Completion] = {}
        with self._stock(), log.progress("generating", len(order)) as advance:
            for start in range(0, len(order), at_once):
                batch = order[start : start + at_once]
                asked, theirs = [prompts[i] for i in batch], [numbers[i] for i in batch]
                done |= zip(batch, self._complete(asked, theirs, sampling), strict=True)
                advance(len(batch))
        return [done[i] for i in range(len(prompts))]

    def stream(
        self, prompt: Prompt, sampling: Sampling, number: AnswerNumber = FIRST
    ) -> Generator[str, None, Completion]:
        """The text of one completion as it is written; the worker ends when the consumer does."""
        if sampling.num_beams > 1:
            raise ConfigError("num_beams: a beam search cannot be streamed; use num_beams: 1")
        pieces = TextPieces(self.template.text, self.template.stop_ids)
        ids: list[int] = []
        with Worker(partial(self._run_streamed, prompt, number, sampling)) as tokens:
            for token in tokens:
                ids.append(token)
                if piece := pieces.add(token):
                    yield piece
        return _completion(ids, self.template.stop_ids)

    @torch.no_grad()
    def loss(self, example: Example) -> tuple[float, float]:
        """The summed cross-entropy of an example's supervised tokens, in nats, and what they count together."""
        require_known_ids(int(example.input_ids.max()), self._embeddings())
        batch = collate([example], self._vision if example.pictures else None).to(self._device)
        with self._stock():
            weight = batch.columns.get(WEIGHT)
            counted = len(batch.targets) if weight is None else float(weight.double().sum())
            return float(self._objective()(batch)), counted

    def _objective(self) -> SupervisedLoss:
        """On one conversation at a time; modules are as they are, training or not."""
        kind, virtual = self._virtual_tokens()
        tuned = Tuned(self._base if kind == "full" else self.model, kind, self._base.dtype, virtual)
        return SupervisedLoss(tuned, flat=False)

    @contextmanager
    def without_adapter(self) -> Iterator[None]:
        """Switch the adapter off; its weights stay, and which of them train stays too.

        Raises ModelError where what remains would not be the base model.
        """
        if not self._adapter_on:
            yield
            return
        _refuse_changed_base(self._peft())
        trains = {parameter: parameter.requires_grad for parameter in self.model.parameters()}
        self._adapter_on = False
        try:
            with self._peft().disable_adapter():
                yield
        finally:
            self._adapter_on = True
            for parameter, value in trains.items():
                parameter.requires_grad_(value)

    def _run_streamed(
        self,
        prompt: Prompt,
        number: AnswerNumber,
        sampling: Sampling,
        streamer: BaseStreamer,
        stop: StoppingCriteria,
    ) -> None:
        more = {"streamer": streamer, "stopping_criteria": StoppingCriteriaList([stop])}
        with self._stock():
            self._padded([prompt]).write([prompt], [number], sampling, more)

    @cached_property
    def _vision(self) -> Vision:
        """The model's eyes, opened for the first picture. Raises ModelError where it has none."""
        return self._opened_eyes or require_vision(self._base, self.template.sight)

    def _why_not_slots(self, prompts: Sequence[Prompt], sampling: Sampling) -> str | None:
        """The reason these prompts are left to transformers' `generate`; None where rows may come and go."""
        if sampling.num_beams > 1:
            return "a beam search"
        if self._lockstep:
            return "processes share the weights"
        _, virtual = self._virtual_tokens()
        longest = virtual + max(map(len, prompts)) + sampling.max_new_tokens
        return why_no_slots(self._base, longest) or self._slots_fail

    def _write(
        self,
        prompts: Sequence[Prompt],
        numbers: Sequence[AnswerNumber],
        sampling: Sampling,
        batch_size: int,
    ) -> list[Completion]:
        self._require_known(prompts)
        with self._as(SLOTS), log.progress("generating", len(prompts)) as advance, _memory(prompts, batch_size):
            vision = self._vision if any(prompt.pictures for prompt in prompts) else None
            stop_ids = self.template.stop_ids
            decoder = Decoder(self._base, self._virtual(), sampling, stop_ids, batch_size, vision=vision)
            rows = decoder.run(prompts, self._device, advance, numbers)
        return [_completion(row, self.template.stop_ids) for row in rows]

    @torch.no_grad()
    def _virtual(self) -> Virtual:
        kind, tokens = self._virtual_tokens()
        if kind == "prefix":
            return Virtual(tokens, prefix=cast(Any, self._peft().get_prompt(batch_size=1)))
        if kind == "prompt":
            return Virtual(tokens, embeddings=self._peft().get_prompt(batch_size=1)[0])
        return Virtual()

    @cached_property
    @torch.no_grad()
    def _slots_fail(self) -> str | None:
        """The reason not to use them, after a trial on the model itself; None where the logits agree."""
        texts = [[i * (97 + 2 * n) % self._embeddings() for i in range(n)] for n in (9, 7)]
        with self._as(SLOTS):
            ours = trial(self._base, self._virtual(), texts, self._device)
        with self._stock():
            stock = [self._last_logits(text) for text in texts]
        difference = apart(ours, torch.cat(stock))
        if difference <= tolerance(self._base, ours.dtype):  # NaN is no agreement
            return None
        reason = f"logits over slots and on stock attention differ by {difference:.1e} on this model"
        log.warning(f"{reason}; answers are written by transformers' own loop")
        return reason

    def _last_logits(self, text: Sequence[int]) -> torch.Tensor:
        example = Example(np.array(text, dtype=np.int32), np.zeros(len(text), dtype=np.bool_))
        last = torch.tensor([len(text) - 1], device=self._device)
        return self._objective().logits(collate([example]).to(self._device), last)

    def _require_known(self, prompts: Sequence[Prompt]) -> None:
        require_known_ids(max(max(prompt.ids) for prompt in prompts), self._embeddings())
        if self._virtual_tokens()[0] == "prompt" and any(prompt.pictures for prompt in prompts):
            raise ModelError("virtual words of a prompt and pictures do not go together; use another adapter")

    def _complete(
        self, prompts: Sequence[Prompt], numbers: Sequence[AnswerNumber], sampling: Sampling
    ) -> list[Completion]:
        drawing = _random_beams(sampling.seed, *numbers) if _draws_beams(sampling) else nullcontext()
        with _memory(prompts, len(prompts)), drawing:
            rows = self._padded(prompts).write(prompts, numbers, sampling, {}).tolist()
        return [_completion(row, self.template.stop_ids) for row in rows]

    def _padded(self, prompts: Sequence[Prompt]) -> Padded:
        self._require_known(prompts)
        looks = any(prompt.pictures for prompt in prompts) or (self._lockstep and sees(self._base))
        vision = self._vision if looks else None
        return Padded(self._base, self.template, self._virtual(), self._device, vision, self._lockstep)

    def _virtual_tokens(self) -> tuple[Kind, int]:
        """What is switched on, and how many virtual tokens it puts before every prompt."""
        if not self._adapter_on:
            return "full", 0
        config = self._peft().active_peft_config
        if not config.is_prompt_learning:
            return "adapter", 0
        return ("prefix" if config.peft_type == "PREFIX_TUNING" else "prompt"), config.num_virtual_tokens

    def _embeddings(self) -> int:
        """How many tokens the model has embeddings for."""
        return int(self._base.config.get_text_config().vocab_size)

    def _peft(self) -> "PeftModel":
        assert not isinstance(self.model, PreTrainedModel)
        return self.model

    def _stock(self) -> AbstractContextManager[None]:
        attention = attention_in_use(self._base)
        return self._as(attention if attention in _LEFT_AS_IS else stock_attention(self._base))

    @contextmanager
    def _as(self, wanted: str) -> Iterator[None]:
        """Evaluation mode, this attention and no generation defaults but ours; all of it put back after."""
        base = self._base
        modes = {module: module.training for module in self.model.modules()}
        attention, defaults = attention_in_use(base), base.generation_config
        try:
            self.model.eval()
            base.generation_config = GenerationConfig()
            if wanted != attention:
                use_attention(base, wanted)
            yield
        finally:
            if wanted != attention:
                use_attention(base, attention)
            base.generation_config = defaults
            for module, training in modes.items():
                module.training = training


@contextmanager
def _memory(prompts: Sequence[Prompt], at_once: int) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        rows, longest = min(at_once, len(prompts)), max(map(len, prompts))
        raise MemoryExhaustedError(
            f"out of memory answering {rows} prompts of up to {longest} tokens at once; "
            "use a smaller batch (--batch-size, per_device_eval_batch_size)"
        ) from error


def _refuse_changed_base(model: "PeftModel") -> None:
    settings = model.active_peft_config.to_dict()
    if settings.get("bias", "none") != "none":
        why = f"bias: {settings['bias']} trained the base's own biases"
    elif str(settings.get("init_lora_weights")).startswith(_CHANGES_BASE):
        why = f"init_lora_weights: {settings['init_lora_weights']} changed the base's weights"
    else:
        return
    raise ModelError(f"this adapter cannot be switched off: {why}; load the base model by itself to compare")


def _completion(row: Sequence[int], stop_ids: Sequence[int]) -> Completion:
    """Cut a row behind its first stop id: what follows is padding, whose id may be a stop id too."""
    for i, token in enumerate(row):
        if token in stop_ids:
            return Completion(list(row[: i + 1]), "stop")
    finish: Finish = "length"
    return Completion(list(row), finish)


def _draws_beams(sampling: Sampling) -> bool:
    """Whether transformers draws: it does so for all rows of a batch in turn, so that each goes alone."""
    return sampling.do_sample and sampling.num_beams > 1


@contextmanager
def _random_beams(seed: int, number: AnswerNumber) -> Iterator[None]:
    """Seed the process's random numbers for one answer; afterwards they go on as if nothing had been drawn."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(random_bits(seed, number, 0) >> 1)
        yield
