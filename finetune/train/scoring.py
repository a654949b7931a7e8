"""Evaluation while a run goes on: the loss on held-out examples, and the scores of generated answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from finetune.chat.template import ChatTemplate
from finetune.config.schema import Config
from finetune.data.dataset import Examples, Sample
from finetune.data.plan import pack
from finetune.eval.evaluate import evaluate_under
from finetune.eval.report import Loss, Report
from finetune.infer.hf import HFEngine
from finetune.model.batch import collate
from finetune.train.trainee import Trainee


@dataclass(frozen=True, slots=True)
class Scorer:
    """Scores the model as it stands, and leaves it, its attention and the random state as they were."""

    config: Config
    trainee: Trainee
    template: ChatTemplate
    tokens_per_micro_batch: int
    examples: Examples | None
    """Of `val_file`, for the loss."""
    samples: Sequence[Sample]
    """Of `val_file`, for generation; empty without `predict_with_generate`."""

    def score(self) -> dict[str, float]:
        """The numbers of one evaluation on `val_file`, by name."""
        scores = {} if self.examples is None else {"loss": self.loss(self.examples).value}
        if self.samples:
            scores |= self.predict(self.samples, None).metrics()
        return scores

    @torch.no_grad()
    def loss(self, examples: Examples) -> Loss:
        """The mean cross-entropy over the supervised tokens of `examples`."""
        self.trainee.objective.eval()
        everything = range(len(examples))
        total = 0.0
        for micro_batch in pack(everything, examples.lengths.tolist(), self.tokens_per_micro_batch):
            batch = collate([examples[i] for i in micro_batch]).to(self.trainee.device)
            with self.trainee.autocast():
                total += float(self.trainee.objective(batch))
        tokens = int(examples.supervised.sum())
        return Loss(total / tokens, tokens)

    def predict(self, samples: Sequence[Sample], predictions: Path | None) -> Report:
        """Write the turns of `samples` and score them; one line each to `predictions`."""
        engine = HFEngine(self.trainee.tuned.model, self.template)
        batch_size = self.config.training_args.batches.per_device_eval_batch_size
        with self.trainee.autocast():
            return evaluate_under(
                self.config, engine, samples, batch_size=batch_size, predictions_path=predictions
            )
