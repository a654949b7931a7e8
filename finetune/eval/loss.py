"""How surprised a model is by the references: loss and perplexity over held-out conversations."""

from collections.abc import Sequence
from typing import Literal

from finetune import log
from finetune.data.dataset import Sample
from finetune.data.encode import encode
from finetune.eval.report import Loss
from finetune.infer.hf import HFEngine


def reference_loss(
    engine: HFEngine, samples: Sequence[Sample], *, max_length: int, train_on: Literal["all", "last"] = "all"
) -> Loss | None:
    """Cross-entropy over every token that training would have taught, weighted as there, one by one.

    Conversations of more than `max_length` tokens are left out, and said; None when nothing is left.
    """
    total, weight, tokens, left_out = 0.0, 0.0, 0, 0
    with log.progress("loss", len(samples)) as advance:
        for sample in samples:
            examples, _ = encode(
                sample.conversation, engine.template, max_length=max_length, train_on=train_on, overflow="drop"
            )
            left_out += not examples
            for example in examples:
                nats, counted = engine.loss(example)
                total, weight = total + nats, weight + counted
                tokens += int(example.loss_mask.sum())
            advance(1)
    if left_out:
        log.warning(
            f"loss: {left_out} of {len(samples)} conversations left out: too long, or without an answer"
        )
    return Loss.mean(total, weight, tokens) if tokens else None
