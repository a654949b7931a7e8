"""When a checkpoint is the best, and what goes into each."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from finetune import log, world
from finetune.chat.template import ChatTemplate
from finetune.config.arguments import Saving
from finetune.errors import ConfigError
from finetune.model.save import state_stops
from finetune.train.checkpoint.identity import Identity
from finetune.train.checkpoint.rng import capture_rng
from finetune.train.checkpoint.save import save_checkpoint, snapshot
from finetune.train.checkpoint.state import Best, TrainState, finish
from finetune.train.parallel import group
from finetune.train.parallel.model_files import ModelFiles, model_files
from finetune.train.position import Position
from finetune.train.trainee import Trainee


@dataclass(slots=True)
class Saver:
    """Publishes checkpoints of one run, and knows the best and the latest."""

    output: Path
    section: Saving
    trainee: Trainee
    template: ChatTemplate
    identity: Identity
    best: Best | None = None
    latest: Path | None = None

    def improves(self, scores: Mapping[str, float]) -> bool:
        """Whether this evaluation beats every saved one; False where no best is kept or there is none."""
        if not scores or self.section.best_metric is None:
            return False
        value = value_of(scores, self.section.best_metric)
        if self.best is None or not math.isfinite(value):
            return math.isfinite(value)
        return value > self.best.value if self.section.higher_is_best else value < self.best.value

    def save(self, position: Position, scores: Mapping[str, float]) -> Path:
        """Publish the training as it stands after `position.step`, evaluated to `scores` or ({}) not at all."""
        metric = self.section.best_metric
        if metric is not None and self.improves(scores):
            self.best = Best(f"checkpoint-{position.step}", metric, value_of(scores, metric))
        state = snapshot(
            position.step,
            self.trainee.back_end.holder,
            self.trainee.schedule,
            rng=self._random_states(),
            counters=asdict(position),
            best=self.best,
        )
        model = model_files(self.trainee.tuned, self.trainee.back_end)
        with group.together():
            try:
                if world.is_main():
                    self._publish(state, model)
            finally:  # whatever became of the main process's disk
                finish([*model.tensors.values(), *(() if self._model_only else state.tensors().values())])
        self.latest = self.output / f"checkpoint-{position.step}"
        log.info(f"saved {self.latest}")
        return self.latest

    @property
    def _model_only(self) -> bool:
        return self.section.save_only_model

    def _publish(self, state: TrainState, model: ModelFiles) -> None:
        def write_model(folder: Path) -> None:
            model.write(folder)
            self.template.save(folder)
            if self.trainee.tuned.kind == "full":
                state_stops(folder, self.template.stop_ids, self.template.pad_id)

        save_checkpoint(
            self.output,
            state,
            write_model,
            identity=self.identity,
            limit=self.section.save_total_limit,
            only_model=self._model_only,
        )

    def _random_states(self) -> dict[str, Tensor]:
        """Of every process."""
        states: dict[str, Tensor] = {}
        for of_one in group.gather(capture_rng(world.rank())):
            states |= of_one
        return states

    def saved(self, step: int) -> bool:
        """Whether the latest checkpoint is of this step."""
        return self.latest is not None and self.latest.name == f"checkpoint-{step}"


def value_of(scores: Mapping[str, float], metric: str) -> float:
    """A metric such as `eval_loss` in an evaluation's scores. Raises ConfigError where it is not evaluated."""
    name = metric.removeprefix("eval_")
    if name not in scores:
        known = ", ".join(sorted(scores))
        raise ConfigError(f"training_args.metric_for_best_model: {name} is not evaluated; there are {known}")
    return scores[name]
