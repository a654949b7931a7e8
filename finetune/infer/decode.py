"""Answers to many prompts: a step computes one token of each row that goes on, and the prompts that begin.

A step reads the weights once, however many rows it has, so more rows are faster. A row that is done leaves at
once and the next prompt takes its place: none waits for the longest answer.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import cast

import torch
from transformers import DynamicCache, PreTrainedModel

from finetune.data.encode import Prompt
from finetune.data.images.picture import Picture
from finetune.infer.choice import Choice
from finetune.infer.engine import FIRST, AnswerNumber, Sampling, counted
from finetune.infer.slots import Round, Slots
from finetune.model.vision import Vision

_PART_OF_WEIGHTS = 4
_SMALL = 2**29  # bytes of keys and values that any machine has to spare


@dataclass(frozen=True, slots=True)
class Virtual:
    """What stands before every prompt: keys of a prefix (in `prefix`), or embeddings (tokens, hidden)."""

    tokens: int = 0
    prefix: DynamicCache | None = None
    embeddings: torch.Tensor | None = None


@dataclass(slots=True)
class Row:
    """A prompt, the number of its answer, and what was written of that.

    positions: of the prompt's tokens in time, rows and columns, (3, T) int64, where it has pictures.
    """

    number: AnswerNumber
    prompt: list[int]
    pictures: tuple[Picture, ...] = ()
    positions: torch.Tensor | None = None
    written: list[int] = field(default_factory=list)

    def next(self, virtual: Virtual) -> tuple[list[int], int]:
        """The tokens that the model has not seen yet, and the column of the first."""
        if self.written:
            return self.written[-1:], virtual.tokens + len(self.prompt) + len(self.written) - 1
        if virtual.prefix is not None:
            return self.prompt, virtual.tokens
        return [0] * virtual.tokens + self.prompt, 0  # stand-ins, whose embeddings are replaced

    def places(self, columns: range, virtual: Virtual) -> torch.Tensor:
        """The positions of the tokens in `columns`, (3, n) int64."""
        if self.positions is None:
            return torch.arange(columns.start, columns.stop).expand(3, -1)
        if not self.written:
            return self.positions + virtual.tokens
        following = int(self.positions.max()) + len(self.written)
        return torch.full((3, 1), virtual.tokens + following)


class Decoder:
    """Writes to prompts, longest first, `least_rows` of them at once whatever memory they need.

    More, up to `most_rows`, where the keys and values of all fit into a fourth of the memory of the weights, or
    512 MiB; should that prove too much, they begin anew, `least_rows` at once. No step takes more tokens of
    prompts than the `least_rows` longest have.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        virtual: Virtual,
        sampling: Sampling,
        stop_ids: Sequence[int],
        least_rows: int,
        most_rows: int = 64,
        vision: Vision | None = None,
    ) -> None:
        self.model = model
        self.virtual = virtual
        self.sampling = sampling
        self.stop_ids = frozenset(stop_ids)
        self.least_rows = least_rows
        self.most_rows = max(least_rows, most_rows)
        self.vision = vision

    @torch.no_grad()
    def run(
        self,
        prompts: Sequence[Prompt],
        device: torch.device,
        advance: Callable[[int], None],
        numbers: Sequence[AnswerNumber] | None = None,
    ) -> list[list[int]]:
        """What is written to each prompt, in their order, the stop id included. `numbers` as for an Engine."""
        numbered = zip(counted(prompts) if numbers is None else numbers, prompts, strict=True)
        rows = [self._row(number, prompt) for number, prompt in numbered]
        run = _Run(self, rows, device)
        while run.waiting or run.running:
            try:
                finished = run.step()
            except torch.OutOfMemoryError:
                if not run.may_shrink:
                    raise
                finished = None
            # Not where the error is at hand: it holds on to the tensors of the step.
            if finished is None:
                run.begin_anew(self.least_rows)
            else:
                advance(finished)
        return [row.written for row in rows]

    def _row(self, number: AnswerNumber, prompt: Prompt) -> Row:
        if not prompt.pictures:
            return Row(number, list(prompt.ids))
        assert self.vision is not None
        positions = self.vision.positions(torch.tensor(prompt.ids), self.vision.grids(prompt.pictures))
        return Row(number, list(prompt.ids), prompt.pictures, positions)


class _Run:
    """The rows of one call: waiting, or running in the slots of their places in `running`."""

    def __init__(self, decoder: Decoder, rows: Sequence[Row], device: torch.device) -> None:
        self.decoder, self.device = decoder, device
        self.choice = Choice(decoder.sampling)
        self.waiting = deque(sorted(rows, key=lambda row: -len(row.prompt)))
        self.running: list[Row] = []
        self.longest = decoder.virtual.tokens + len(self.waiting[0].prompt) if rows else 0
        self.most_rows: int | None = None
        self.slots = self._empty()

    def step(self) -> int:
        """Write one token to each row that runs or may begin; returns how many are done with it."""
        self._admit()
        logits = self.logits()
        texts = [(row.prompt, row.written) for row in self.running]
        tokens = self.choice.choose(logits, [row.number for row in self.running], texts)
        for row, token in zip(self.running, tokens, strict=True):
            row.written.append(token)
        if self.most_rows is None:
            self.most_rows = self._room()
        return self._leave()

    @property
    def may_shrink(self) -> bool:
        return self.most_rows is not None and self.most_rows > self.decoder.least_rows

    def begin_anew(self, most_rows: int) -> None:
        """All rows that are not done wait again; no more than so many run at once from now on."""
        for row in self.running:
            row.written.clear()
        self.waiting.extendleft(reversed(self.running))
        self.running, self.most_rows, self.slots = [], most_rows, self._empty()

    def _empty(self) -> Slots:
        config = self.decoder.model.config.get_text_config()
        return Slots(config.num_hidden_layers, self.decoder.virtual.prefix)

    def _room(self) -> int:
        """How many rows may run at once."""
        decoder = self.decoder
        row = self.slots.bytes_per_token() * (self.longest + decoder.sampling.max_new_tokens)
        weights = sum(parameter.nbytes for parameter in decoder.model.parameters())
        return min(decoder.most_rows, max(decoder.least_rows, rows_beside(weights, row)))

    def _admit(self) -> None:
        most, tokens = self.most_rows or self.decoder.least_rows, self.decoder.least_rows * self.longest
        while self.waiting and len(self.running) < most:
            if self.waiting[0].pictures and self._image_token_was_written():
                break
            tokens -= self.decoder.virtual.tokens + len(self.waiting[0].prompt)
            if tokens < 0:
                break
            self.running.append(self.waiting.popleft())

    def _image_token_was_written(self) -> bool:
        """Whether a row goes on with one: beside pictures that begin, it would be taken for their place."""
        vision = self.decoder.vision
        return vision is not None and any(row.written[-1:] == [vision.sight.token] for row in self.running)

    def _leave(self) -> int:
        """Take out the rows that are done; the last ones move into their slots."""
        stops, longest = self.decoder.stop_ids, self.decoder.sampling.max_new_tokens
        done = [
            slot
            for slot, row in enumerate(self.running)
            if row.written[-1] in stops or len(row.written) == longest
        ]
        for slot in reversed(done):
            last = len(self.running) - 1
            if slot != last:
                self.slots.move(last, slot)
                self.running[slot] = self.running[last]
            self.running.pop()
        return len(done)

    def logits(self) -> torch.Tensor:
        """Logits of the next token of each running row, (B, V)."""
        fed = [row.next(self.decoder.virtual) for row in self.running]
        ids, now = _round(fed, sum(bool(row.written) for row in self.running), self.device)
        self.slots.begin(now)
        ends = list(accumulate(len(tokens) for tokens, _ in fed))
        output = self.decoder.model(
            **self._words(ids, now),
            **self._shown(),
            position_ids=self._positions(fed, now),
            past_key_values=self.slots,
            use_cache=True,
            slots=self.slots,
            logits_to_keep=torch.tensor(ends, device=self.device) - 1,
        )
        return cast(torch.Tensor, output.logits[0])

    def _positions(self, fed: Sequence[tuple[list[int], int]], now: Round) -> torch.Tensor:
        """(1, N), or (3, 1, N) where a row has pictures."""
        if all(row.positions is None for row in self.running):
            return now.columns[None]
        rows = zip(self.running, fed, strict=True)
        places = [
            row.places(range(first, first + len(tokens)), self.decoder.virtual) for row, (tokens, first) in rows
        ]
        return torch.cat(places, dim=1)[:, None].to(self.device)

    def _shown(self) -> dict[str, torch.Tensor]:
        """The pictures of the rows that begin, in the order of their tokens."""
        pictures = [picture for row in self.running if not row.written for picture in row.pictures]
        if not pictures:
            return {}
        assert self.decoder.vision is not None
        patches, grids = self.decoder.vision.patches(pictures)
        return {"pixel_values": patches.to(self.device), "image_grid_thw": grids.to(self.device)}

    def _words(self, ids: torch.Tensor, now: Round) -> dict[str, torch.Tensor]:
        virtual = self.decoder.virtual
        if virtual.embeddings is None:
            return {"input_ids": ids[None]}
        words = self.decoder.model.get_input_embeddings()(ids)
        for start in now.borders[:-1]:
            words[now.going + start :][: virtual.tokens] = virtual.embeddings
        return {"inputs_embeds": words[None]}


def rows_beside(weights: int, row: int) -> int:
    """How many rows of `row` bytes are little beside weights of so many bytes."""
    return max(weights // _PART_OF_WEIGHTS, _SMALL) // row


def _round(
    fed: Sequence[tuple[list[int], int]], going: int, device: torch.device
) -> tuple[torch.Tensor, Round]:
    """Ids (N,) int64 and where they belong; the first `going` rows of `fed` are one token each."""
    ids = [token for tokens, _ in fed for token in tokens]
    slots = [slot for slot, (tokens, _) in enumerate(fed) for _ in tokens]
    columns = [column for tokens, first in fed for column in range(first, first + len(tokens))]
    given = torch.tensor([ids, slots, columns], device=device)
    seen = max(columns[:going], default=-1) + 1
    return given[0], Round(
        slots=given[1],
        columns=given[2],
        rows=len(fed),
        width=max(columns) + 1,
        going=going,
        visible=(torch.arange(seen, device=device) <= given[2, :going, None])[:, None, None],
        borders=list(accumulate((len(tokens) for tokens, _ in fed[going:]), initial=0)),
    )


def trial(
    model: PreTrainedModel, virtual: Virtual, texts: Sequence[list[int]], device: torch.device
) -> torch.Tensor:
    """Logits behind two texts, (2, V), as rows compute them: the second begins where the first goes on."""
    run = _Run(Decoder(model, virtual, Sampling(), (), 1), [], device)
    first, second = Row(FIRST, texts[0][:-1]), Row(FIRST, texts[1])
    run.running.append(first)
    run.logits()
    first.written.append(texts[0][-1])
    run.running.append(second)
    return run.logits()
