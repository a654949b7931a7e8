"""Does a peer compute what we compute? Its first batch, loss and gradients, and ours of the same batch."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import load_file

from finetune.config.load import load_config
from finetune.data.encode import Example
from finetune.model.batch import collate
from finetune.train.trainee import Trainee, make_trainee
from scripts.benchmark.recorder import BATCH_FILE, GRADIENTS_FILE, WEIGHTS_FILE
from scripts.benchmark.work import Work

TOLERANCE = 2e-5
"""Relative, in float32: above it two tools do not compute the same."""

Gradients = Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far a peer is from us on its own batch: relative differences of the loss and of all gradients."""

    conversations: int
    same_conversations: bool
    """Whether the batch is that of our own first step."""
    loss: float
    gradients: float

    @property
    def agrees(self) -> bool:
        return self.gradients <= TOLERANCE and self.loss <= TOLERANCE

    def words(self) -> str:
        verdict = "agrees" if self.agrees else "DIFFERS"
        batch = "our first step's conversations" if self.same_conversations else "a batch of its own"
        figures = f"loss {self.loss:.1e}, gradients {self.gradients:.1e}"
        return f"{verdict}: {figures} ({self.conversations} conversations, {batch})"


def compare(work: Work, output: Path, their_loss: float) -> Agreement:
    """What a peer left in `output` against our own loss and gradients of the very same conversations."""
    examples = list(conversations(load_file(output / BATCH_FILE)))
    trainee = _trainee(work, max(len(example.input_ids) for example in examples))
    if work.method == "p-tuning":
        _take(trainee, load_file(output / WEIGHTS_FILE))
    loss = _compute(trainee, examples)
    ours = {name: p.grad.cpu() for name, p in trainee.tuned.trainable() if p.grad is not None}
    theirs = load_file(output / GRADIENTS_FILE)
    return Agreement(
        len(examples),
        _first_step(work) == sorted(len(example.input_ids) for example in examples),
        abs(their_loss - loss) / loss,
        difference(ours, theirs),
    )


def conversations(batch: Mapping[str, torch.Tensor]) -> Iterator[Example]:
    """The conversations in a batch, padded (by its mask) or packed (a new one where positions begin anew)."""
    # Where only the last logits are asked for, the labels in front of them are cut off.
    missing = batch["input_ids"].shape[1] - batch["labels"].shape[1]
    wide = torch.nn.functional.pad(batch["labels"], (missing, 0), value=-100)
    for row in range(len(batch["input_ids"])):
        keep = batch["attention_mask"][row].bool() if "attention_mask" in batch else slice(None)
        ids, labels = batch["input_ids"][row][keep], wide[row][keep]
        starts = [0]
        if "position_ids" in batch and "attention_mask" not in batch:
            starts = (batch["position_ids"][row] == 0).nonzero().flatten().tolist()
        for start, stop in pairwise([*starts, len(ids)]):
            yield Example(ids[start:stop].numpy().astype("int32"), (labels[start:stop] != -100).numpy())


def difference(ours: Gradients, theirs: Gradients) -> float:
    """Of all gradients as one vector, relative to its length. Raises ValueError where the names differ."""
    if ours.keys() != theirs.keys():
        odd = sorted(ours.keys() ^ theirs.keys())[:3]
        raise ValueError(f"other parameters learn: {', '.join(odd)}")
    apart = sum(float((ours[name] - theirs[name]).double().square().sum()) for name in ours)
    return (apart / sum(float(tensor.double().square().sum()) for tensor in ours.values())) ** 0.5


def _trainee(work: Work, longest: int) -> Trainee:
    config = load_config(work.yaml, ["training_args.bf16=false"], data_dir=work.shared)
    return make_trainee(
        config,
        str(work.exact_model),
        torch.device(work.wanted.device),
        longest=longest,
        total_steps=work.wanted.steps,
    )


@torch.no_grad()
def _take(trainee: Trainee, weights: Mapping[str, torch.Tensor]) -> None:
    for name, parameter in trainee.tuned.trainable():
        parameter.copy_(weights[name])


def _compute(trainee: Trainee, examples: list[Example]) -> float:
    """Our mean loss over the supervised tokens; its gradient is left in the parameters."""
    batch = collate(examples).to(trainee.device)
    trainee.objective.train()
    weight = len(batch.targets)
    return float(trainee.back_end.accumulate(batch, 1 / weight, last=True)) / weight


def _first_step(work: Work) -> list[int]:
    return sorted(tokens for _, tokens in work.lengths[: work.wanted.batch])
