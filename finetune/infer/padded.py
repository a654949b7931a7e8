"""transformers' own `generate`, for what our loop does not do: streams, beams, weights in shares, odd models.

Prompts are padded on the left. Virtual tokens of a prefix or prompt are put in place here, at the positions
they had in training (peft's own `generate` counts a row's padding into them):

    prefix   cache: P keys and values, row: [dummy × P] [pad] [prompt]; transformers resumes behind the cache
    prompt   embeddings of the row: [pad] [virtual × P] [prompt]
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import GenerationConfig, PreTrainedModel

from finetune.chat.template import ChatTemplate
from finetune.data.encode import Prompt
from finetune.infer.choice import Choice, Chosen
from finetune.infer.decode import Virtual
from finetune.infer.engine import AnswerNumber, Sampling
from finetune.model.head import looking_at_blank
from finetune.model.vision import Vision, sees


@dataclass(frozen=True, slots=True)
class Padded:
    """A base model that `generate`s: adapters sit in its layers, and `virtual` stands before every prompt.

    vision: its eyes, where a prompt has pictures or processes must look together. lockstep: they share weights.
    """

    base: PreTrainedModel
    template: ChatTemplate
    virtual: Virtual
    device: torch.device
    vision: Vision | None = None
    lockstep: bool = False

    @torch.no_grad()
    def write(
        self,
        prompts: Sequence[Prompt],
        numbers: Sequence[AnswerNumber],
        sampling: Sampling,
        more: Mapping[str, Any],
    ) -> torch.Tensor:
        """The new tokens of each prompt, (B, T) int64, filled with the pad id behind a stop.

        more: further arguments of `generate`. Beams draw the process's random numbers, all else `Choice`'s.
        """
        arguments, columns = self._inputs(prompts, sampling.num_beams)
        config = generation_config(sampling, self.template)
        generate: Callable[..., torch.Tensor] = cast(Any, self.base).generate
        options = {"synced_gpus": self.lockstep, **more}
        choice = Choice(sampling)
        if sampling.num_beams == 1 and not choice.is_plain:
            options["logits_processor"] = [Chosen(choice, prompts, numbers, columns)]
        with self._looking(prompts, sampling.num_beams, arguments):
            return generate(generation_config=config, **arguments, **options)[:, columns:]

    def _inputs(self, prompts: Sequence[Prompt], beams: int) -> tuple[dict[str, Any], int]:
        """What `generate` is given, and how many of the columns it gives back are not new."""
        pad_id, virtual = self.template.pad_id, self.virtual
        ids, mask = pad_left([prompt.ids for prompt in prompts], pad_id, self.device)
        if virtual.embeddings is not None:
            words = self.base.get_input_embeddings()(ids)
            words, mask = with_virtual_words(words, mask, virtual.embeddings)
            return {"inputs_embeds": words, "attention_mask": mask}, 0
        arguments: dict[str, Any] = {}
        if virtual.prefix is not None:
            virtual.prefix.batch_repeat_interleave(len(prompts) * beams)
            arguments["past_key_values"] = virtual.prefix
            ids, mask = behind_prefix(ids, mask, virtual.tokens, pad_id)
        if any(prompt.pictures for prompt in prompts):
            arguments |= self._shown(prompts, ids)
        return {"input_ids": ids, "attention_mask": mask, **arguments}, ids.shape[1]

    def _shown(self, prompts: Sequence[Prompt], ids: torch.Tensor, beams: int = 1) -> dict[str, torch.Tensor]:
        """The pictures of prompts whose ids (B, T) these are."""
        assert self.vision is not None
        pictures = [picture for prompt in prompts for _ in range(beams) for picture in prompt.pictures]
        patches, grids = (part.to(self.device) for part in self.vision.patches(pictures))
        kinds = (ids == self.vision.sight.token).to(torch.int32)
        return {"pixel_values": patches, "image_grid_thw": grids, "mm_token_type_ids": kinds}

    @contextmanager
    def _looking(self, prompts: Sequence[Prompt], beams: int, arguments: dict[str, Any]) -> Iterator[None]:
        """Forget the positions of earlier pictures; keep step with processes that look at some."""
        if not sees(self.base):
            yield
            return
        cast(Any, self.base.model).rope_deltas = None
        with self._in_step(prompts, beams, arguments) if self.lockstep else nullcontext():
            yield

    def _in_step(
        self, prompts: Sequence[Prompt], beams: int, arguments: dict[str, Any]
    ) -> AbstractContextManager[None]:
        """Have the tower look behind the embedding layer, at pictures or at a blank one, in all processes.

        Given pixels, `generate` would look before the model's forward, where nothing has gathered its weights.
        """
        if not any(prompt.pictures for prompt in prompts):
            assert self.vision is not None
            return looking_at_blank(self.base.get_input_embeddings(), self.vision)
        del arguments["pixel_values"]
        shown = self._shown(prompts, arguments["input_ids"], beams)
        del shown["mm_token_type_ids"]
        # `generate` leaves a place for features of its own, and models refuse that beside pixels.
        return _given_once(self.base, {**shown, "mm_encoder_outputs": None})


def pad_left(
    prompts: Sequence[Sequence[int]], pad_id: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and attention mask, (B, longest) int64 each, the prompts at the right edge."""
    longest = max(map(len, prompts))
    ids = [[pad_id] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


@contextmanager
def _given_once(model: PreTrainedModel, more: Mapping[str, Any]) -> Iterator[None]:
    """While this is entered, the next forward of `model` is given these arguments too, once."""
    handles: list[RemovableHandle] = []

    def give(module: nn.Module, given: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        handles.pop().remove()
        return given, {**named, **more}

    handles.append(model.register_forward_pre_hook(give, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def behind_prefix(
    ids: torch.Tensor, mask: torch.Tensor, virtual: int, pad_id: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask with a column for each of the prefix's keys in front."""
    dummy = ids.new_full((len(ids), virtual), pad_id)
    return torch.cat((dummy, ids), 1), torch.cat((torch.ones_like(dummy), mask), 1)


def with_virtual_words(
    words: torch.Tensor, mask: torch.Tensor, virtual: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings (B, P + T, hidden), the virtual ones between a row's padding and its prompt; and the mask."""
    pads = (mask == 0).sum(dim=1).tolist()
    rows = [torch.cat((w[:n], virtual.to(w.dtype), w[n:])) for w, n in zip(words, pads, strict=True)]
    wider = torch.cat((mask, mask.new_ones(len(mask), len(virtual))), 1).sort(dim=1).values
    return torch.stack(rows), wider


def generation_config(sampling: Sampling, template: ChatTemplate) -> GenerationConfig:
    """`Sampling` in transformers' words; but for beams, tokens are chosen by `Choice`, and the rest is greedy.

    Values that have no effect are left out: it warns about them.
    """
    options: dict[str, Any] = {
        "max_new_tokens": sampling.max_new_tokens,
        "num_beams": sampling.num_beams,
        "eos_token_id": list(template.stop_ids),
        "pad_token_id": template.pad_id,
        "use_cache": True,
    }
    if sampling.num_beams == 1:
        return GenerationConfig(**options)
    options |= {
        "do_sample": sampling.do_sample,
        "length_penalty": sampling.length_penalty,
        "repetition_penalty": sampling.repetition_penalty,
    }
    if sampling.do_sample:
        options |= {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k}
    return GenerationConfig(**options)
