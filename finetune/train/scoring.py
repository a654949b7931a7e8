"""Evaluation while a run goes on: the loss on held-out examples, and the scores of generated answers.

Several processes share the work; each then knows all of it, so that all come to the same scores.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from finetune import world
from finetune.chat.template import ChatTemplate
from finetune.config.schema import Config
from finetune.data.dataset import Examples, Sample
from finetune.data.plan import MicroBatch, balance, pack
from finetune.eval.evaluate import evaluate_under
from finetune.eval.report import Loss, Report, losses_together, reports_together
from finetune.infer.hf import HFEngine
from finetune.model.batch import collate
from finetune.train.memory import memory_errors
from finetune.train.parallel import group
from finetune.train.parallel.shared_engine import SharedEngine
from finetune.train.trainee import Trainee

_SMALLER = "set a smaller per_device_eval_batch_size or run.tokens_per_micro_batch"


@dataclass(frozen=True, slots=True)
class Scorer:
    """Scores the model as it stands, and leaves it, its attention and the random state as they were."""

    config: Config
    trainee: Trainee
    template: ChatTemplate
    tokens_per_micro_batch: int
    examples: Mapping[str, Examples]
    """Of `val_file`, for the loss, by the files' names (`DataConfig.val_files`)."""
    samples: Mapping[str, Sequence[Sample]]
    """Of `val_file`, for generation; empty without `predict_with_generate`."""
    retain: Examples | None = None
    """Of `evaluation.retain_file`, for the loss: what training may make the model forget."""

    def score(self) -> dict[str, float]:
        """The numbers of one evaluation on `val_file`: of all files together, then of each that has a name.

        `loss` is the mean over the supervised tokens of all files, `loss/NAME` that of one.
        """
        losses = {name: self.loss(examples) for name, examples in self.examples.items()}
        reports = {name: self.predict(samples, None) for name, samples in self.samples.items()}
        scores: dict[str, float] = {}
        if losses:
            scores |= {"loss": losses_together(list(losses.values())).value}
            scores |= {f"loss/{name}": loss.value for name, loss in losses.items() if name}
        if reports:
            scores |= reports_together(list(reports.values())).metrics()
        for name, report in reports.items():
            scores |= {f"{metric}/{name}": value for metric, value in report.metrics().items() if name}
        if self.retain is not None:
            scores["retain_loss"] = self.loss(self.retain).value
        return scores

    @torch.no_grad()
    def loss(self, examples: Examples) -> Loss:
        """The mean cross-entropy over the supervised tokens of `examples`, weighted as in training."""
        self.trainee.objective.eval()
        summed = 0.0
        with memory_errors(lambda: ("evaluating the loss", _SMALLER)):
            for micro_batch in self._share(examples):
                some = [examples[i] for i in micro_batch]
                batch = collate(some, self.trainee.vision).to(self.trainee.device)
                summed += float(self.trainee.objective(batch))
        return Loss.mean(group.total(summed), float(examples.weights.sum()), int(examples.supervised.sum()))

    def predict(self, samples: Sequence[Sample], predictions: Path | None) -> Report:
        """Write the turns of `samples` and score them; one line each to `predictions`."""
        trainee = self.trainee
        lockstep = trainee.back_end.lockstep
        engine = HFEngine(
            trainee.tuned.model,
            self.template,
            device=trainee.device,
            lockstep=lockstep,
            vision=trainee.vision,
        )
        batch_size = self.config.training_args.batches.per_device_eval_batch_size
        with trainee.autocast(), memory_errors(lambda: ("generating answers", _SMALLER)):
            return evaluate_under(
                self.config,
                SharedEngine(engine, lockstep=lockstep),
                samples,
                batch_size=batch_size,
                predictions_path=predictions if world.is_main() else None,
            )

    def _share(self, examples: Examples) -> list[MicroBatch]:
        """This process's micro-batches; where all must run the same number of forwards, empty ones too."""
        lengths = examples.lengths.tolist()
        shares = [
            pack(share, [lengths[i] for i in share], self.tokens_per_micro_batch)
            for share in balance(range(len(examples)), lengths, world.world_size())
        ]
        mine = shares[world.rank()]
        missing = max(map(len, shares)) - len(mine) if self.trainee.back_end.lockstep else 0
        return mine + [()] * missing
