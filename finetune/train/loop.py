"""The training loop: what a reader opens first.

A step is a set of conversations. Each rank computes its micro-batches, every loss is a sum over supervised
tokens, each times its weight (1 as a rule), divided by the weight of the whole step, and one update follows. So
the token budget, the number of processes and the layout change the speed, and the gradient not at all.
"""

import gc
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import tee, zip_longest
from typing import TYPE_CHECKING

import torch

from finetune import log, world
from finetune.config.arguments import count_steps
from finetune.config.schema import Config
from finetune.data.dataset import Examples
from finetune.data.images.picture import Picture
from finetune.data.plan import MicroBatch, Plan, Step
from finetune.errors import MemoryExhaustedError, Preempted, TrainingError, some_of
from finetune.model.batch import collate
from finetune.train.checkpoint.rng import capture_rng, restore_rng
from finetune.train.early_stopping import note_evaluation, why_stop
from finetune.train.fit import Fit
from finetune.train.memory import memory_errors, peak_memory
from finetune.train.monitor.monitor import Monitor
from finetune.train.parallel import group
from finetune.train.parallel.back_end import Update
from finetune.train.position import Position
from finetune.train.proofs import check_first_gradients
from finetune.train.saver import Saver, value_of
from finetune.train.scoring import Scorer
from finetune.train.signals import StopSignals
from finetune.train.trainee import Trainee

if TYPE_CHECKING:
    from finetune.train.profile import Profile

MOST_SKIPPED = 10


@dataclass(frozen=True, slots=True)
class Loop:
    """Everything the loop works with; `position` is the one part of it that changes."""

    config: Config
    examples: Examples
    plan: Plan
    fit: Fit
    total_steps: int
    trainee: Trainee
    monitor: Monitor
    scorer: Scorer
    saver: Saver
    stop: StopSignals
    position: Position = field(default_factory=Position)
    profile: "Profile | None" = None

    def run(self) -> None:
        """Train from the position to the last step. Raises Preempted or TrainingError when it ends early."""
        if self.position.step == 0 and self.config.training_args.evaluation.eval_on_start:
            self._evaluate()
        for step in self._steps():
            with nullcontext() if self.profile is None else self.profile.step(step.index + 1):
                loss, taken = self._take(step)
            self._advance(step, loss, taken)
            scores = self._evaluate_if_due()
            self._save_if_due(scores)
            self._leave_if_asked()
        if self.stopped_early is not None:
            log.info(self.stopped_early)

    @property
    def stopped_early(self) -> str | None:
        """Why the run ends before its last step; None where it goes on, or is done."""
        if self.position.step == self.total_steps:
            return None
        return why_stop(self.config.run.early_stopping, self.position, self.saver.section.watched_metric)

    @property
    def _ended(self) -> bool:
        return self.position.step == self.total_steps or self.stopped_early is not None

    def _steps(self) -> Iterator[Step]:
        """The steps to come, until the run ends; while one is computed, the next one's pictures are made."""
        ahead, behind = tee(self.plan.steps(self.position.step, self.total_steps))
        next(ahead, None)
        for step, following in zip_longest(behind, ahead):
            if self._ended:
                return
            if self.trainee.vision is not None:
                soon = [step] if following is None else [step, following]
                self.trainee.vision.expect(picture for one in soon for picture in self._pictures(one))
            yield step

    def _pictures(self, step: Step) -> Iterator[Picture]:
        for micro_batch in step.micro_batches(world.rank()):
            for example in micro_batch:
                yield from self.examples.album.of(example)

    def _take(self, step: Step) -> tuple[float, Update]:
        """One optimizer step: the mean loss over its supervised tokens, and what became of the update."""
        mean = group.total(self._compute_fitting(step)) / step.weight
        if self.position.step == 0:
            check_first_gradients(self.trainee.back_end.gradients())
        # Never repeated: where memory runs out here, a part of the weights may have been updated.
        with memory_errors(partial(self._told_of_update, step)):
            taken = self.trainee.back_end.update(
                loss=mean, max_grad_norm=self.config.training_args.optimizer.max_grad_norm
            )
        if taken.applied:
            self.trainee.schedule.step()
        else:
            self._not_finite(step, mean, taken.grad_norm)
        return mean, taken

    def _compute_fitting(self, step: Step) -> float:
        """This process's loss and gradient; with `auto_fit` in smaller micro-batches where memory ran out."""
        while True:
            drawn = capture_rng() if self.config.run.auto_fit else {}
            try:
                return self._compute(self.fit.packed(step))
            except MemoryExhaustedError as error:
                self.fit.shrink(step, error)
            # Only behind the block, and swept up, does the error let go of the tensors of the attempt.
            gc.collect()
            self.trainee.optimizer.zero_grad(set_to_none=True)
            restore_rng(drawn)

    def _compute(self, step: Step) -> float:
        """This process's part of the summed loss; its gradient is left where `update` finds it."""
        trainee = self.trainee
        trainee.objective.train()
        loss = torch.zeros((), device=trainee.device)
        micro_batches = step.micro_batches(world.rank())
        for number, micro_batch in enumerate(micro_batches, start=1):
            with memory_errors(partial(self._told, step, micro_batch)):
                examples = [self.examples[i] for i in micro_batch]
                batch = collate(examples, trainee.vision).to(trainee.device)
                last = number == len(micro_batches)
                loss += trainee.back_end.accumulate(batch, 1 / step.weight, last=last)
        return float(loss)

    def _told(self, step: Step, micro_batch: MicroBatch) -> tuple[str, str]:
        """What is being computed, and what would need less memory for it: the cheapest change first."""
        tokens = sum(int(self.examples.lengths[i]) for i in micro_batch)
        origin = some_of(dict.fromkeys(self.examples.origin_of(i) for i in micro_batch))
        doing = f"computing {tokens} tokens of step {step.index + 1} at once ({origin})"
        if len(micro_batch) > 1:
            fits_itself = self.config.run.auto_fit or self.trainee.back_end.name != "one process"
            fitting = "" if fits_itself else ", or run.auto_fit: true"
            return doing, f"set run.tokens_per_micro_batch: {max(1, tokens // 2)}{fitting}"
        recomputes, kind = self.config.training_args.placement.gradient_checkpointing, self.trainee.tuned.kind
        if not recomputes and kind != "prefix":  # a prefix gets no gradient through recomputed activations
            return doing, "set training_args.gradient_checkpointing: true (a third more work)"
        # Quantized weights cannot be trained themselves.
        less = "a peft_config" if kind == "full" else "model_config.quantization: nf4"
        return doing, f"set a smaller max_input_length, or {less}"

    def _told_of_update(self, step: Step) -> tuple[str, str]:
        doing = f"updating the weights after step {step.index + 1}"
        if self.trainee.back_end.shares:  # an 8-bit optimizer is refused there
            return doing, "share the optimizer over more processes, or tune an adapter"
        return doing, "set training_args.optim: adamw_8bit, or share it over processes (deepspeed or fsdp)"

    def _advance(self, step: Step, loss: float, taken: Update) -> None:
        tokens = sum(int(self.examples.lengths[i]) for rank in step.ranks for batch in rank for i in batch)
        self.position.step = step.index + 1
        self.position.tokens += tokens
        self.position.supervised_tokens += step.supervised
        self.monitor.record(
            step.index + 1,
            epoch=(step.index + 1) / self.plan.steps_per_epoch,
            loss=loss,
            grad_norm=taken.grad_norm,
            learning_rate=float(self.trainee.schedule.get_last_lr()[0]),
            tokens=tokens,
            supervised_tokens=step.supervised,
            weight=step.weight,
            peak_memory_bytes=peak_memory(self.trainee.device),
        )

    def _evaluate_if_due(self) -> dict[str, float]:
        arguments = self.config.training_args
        every = count_steps(arguments.steps_between_evaluations, self.total_steps)
        if not self._due(arguments.evaluation.eval_strategy, every) or self._too_early_to_evaluate():
            return {}
        return self._evaluate()

    def _evaluate(self) -> dict[str, float]:
        with self.monitor.pause():
            scores = self.scorer.score()
            self.monitor.event(self.position.step, scores)
            self._note_for_early_stopping(scores)
        return scores

    def _note_for_early_stopping(self, scores: dict[str, float]) -> None:
        """All processes go by the main one's figure: none may train on where another stops."""
        section, saving = self.config.run.early_stopping, self.saver.section
        if section is not None:
            value = group.decide(lambda: value_of(scores, saving.watched_metric))
            note_evaluation(self.position, value, section.threshold, higher_is_best=saving.higher_is_best)

    def _too_early_to_evaluate(self) -> bool:
        section = self.config.training_args.evaluation
        epochs = section.eval_strategy == "epoch"
        return self.position.step < section.eval_delay * (self.plan.steps_per_epoch if epochs else 1)

    def _save_if_due(self, scores: dict[str, float]) -> None:
        section = self.config.training_args.saving
        every = count_steps(section.save_steps, self.total_steps)
        if section.save_strategy == "best":
            due = self.saver.improves(scores)
        else:
            due = self._due(section.save_strategy, every)
        if due or (self._ended and section.save_strategy != "no"):
            self._save(scores)

    def _save(self, scores: dict[str, float]) -> None:
        with self.monitor.pause():
            self.saver.save(self.position, scores)

    def _leave_if_asked(self) -> None:
        step = self.position.step
        asked = group.anywhere(self.stop.requested)
        if asked is None or self._ended:
            return
        if not self.saver.saved(step):
            self._save({})
        raise Preempted(
            f"stopped by {asked} after step {step}, which is saved as {self.saver.latest}; "
            "the same command with RESUME yes goes on from there"
        )

    def _due(self, strategy: str, every: int) -> bool:
        if strategy == "epoch":
            return self.position.step % self.plan.steps_per_epoch == 0
        return strategy == "steps" and self.position.step % every == 0

    def _not_finite(self, step: Step, loss: float, grad_norm: float) -> None:
        """The update was left out: name the step's conversations, then stop or go on as configured."""
        rows = some_of(map(self.examples.origin, step.conversations), shown=8)
        values = f"loss {loss:g}, gradient norm {grad_norm:g}"
        what = f"step {step.index + 1}: {values}: not finite, not applied ({rows})"
        self.position.skipped += 1
        if self.config.run.on_nonfinite == "stop":
            raise TrainingError(f"{what}; lower training_args.learning_rate, or set run.on_nonfinite: skip")
        if self.position.skipped > MOST_SKIPPED:
            raise TrainingError(f"{what}; more than {MOST_SKIPPED} steps were skipped, this run diverges")
        log.warning(f"{what}; skipped")
