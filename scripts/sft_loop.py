"""Supervised fine-tuning once more, in plain lines: what `finetune train` computes, and nothing around it.

    python scripts/sft_loop.py DATA_DIR MODEL CONFIG OUTPUT

One process on a CPU, no checkpoints to resume from, no evaluation, no report. Losses and weights are those of
`finetune train` with the same arguments (without dropout, which draws there from a seed of the process), as
tests/train/test_sft_loop.py shows.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate.utils import set_seed

from finetune.chat.load import load_template
from finetune.chat.template import ChatTemplate
from finetune.config.load import load_config
from finetune.config.schema import Config
from finetune.data.dataset import load_examples
from finetune.data.examples import Examples
from finetune.data.plan import Plan, Step
from finetune.model.attention import Layout
from finetune.model.batch import collate
from finetune.model.head import SupervisedLoss, is_direct
from finetune.model.layout import choose_layout, use_layout
from finetune.model.lean import keep_less
from finetune.model.load import load_base
from finetune.model.save import save_tuned
from finetune.model.tuned import Tuned
from finetune.model.tuning import apply_tuning
from finetune.train.optimizer import make_optimizer, make_schedule

CPU = torch.device("cpu")
TOKENS_PER_MICRO_BATCH = 2048  # changes how fast a step is computed, never what it is


@dataclass(frozen=True)
class Training:
    """All that a step needs."""

    examples: Examples
    plan: Plan
    objective: SupervisedLoss
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    max_grad_norm: float


def main(data_dir: Path, model: str, config_file: Path, output: Path) -> None:
    config = load_config(config_file, data_dir=data_dir)
    template = load_template(model)
    examples = read(config, data_dir, template)
    tuned, objective, layout = load(config, model, int(examples.lengths.max()))
    plan = plan_of(config, examples, layout)
    length = config.training_args.schedule
    total = plan.total(length.max_steps, length.num_train_epochs)
    optimizer = make_optimizer(config.training_args.optimizer, tuned.trainable())
    schedule = make_schedule(length, optimizer, total)
    norm = config.training_args.optimizer.max_grad_norm
    for loss in train(Training(examples, plan, objective, optimizer, schedule, norm), total):
        print(f"loss {loss:.6f}", flush=True)
    output.mkdir(parents=True)
    save_tuned(tuned, output)
    template.save(output)


def read(config: Config, data_dir: Path, template: ChatTemplate) -> Examples:
    """Records → conversations → token ids, and which of them are learnt."""
    longest = config.max_input_length + config.max_output_length
    return load_examples(
        config.data_config, str(config.data_config.train_file), data_dir, template, max_length=longest
    )


def load(config: Config, model: str, longest: int) -> tuple[Tuned, SupervisedLoss, Layout]:
    """The base with its adapter, and the loss of a batch on it."""
    set_seed(config.training_args.batches.seed)
    tuned = apply_tuning(load_base(model, config.model, device=CPU), config.peft_config)
    keep_less(tuned.model)  # for the backward pass, on a CPU
    layout, _ = choose_layout(tuned, config.model.attention, longest, CPU)
    use_layout(tuned, layout)
    objective = SupervisedLoss(tuned, flat=layout == "flat")
    objective.direct = is_direct(objective, CPU)
    return tuned, objective, layout


def plan_of(config: Config, examples: Examples, layout: Layout) -> Plan:
    """Which conversations form a step, and how they are packed."""
    batches = config.training_args.batches
    return Plan(
        examples.lengths,
        examples.supervised,
        examples.first_example,
        batches.conversations(processes=1),
        batches.order_seed,
        tokens_per_micro_batch=TOKENS_PER_MICRO_BATCH if layout == "flat" else 1,
        weights=examples.weights,
    )


def train(training: Training, total: int) -> Iterator[float]:
    """The mean loss of each step, over the tokens that are learnt in it."""
    training.objective.train()
    for step in training.plan.steps(0, total):
        yield take(training, step)


def take(training: Training, step: Step) -> float:
    """One step: the summed loss of its micro-batches, divided once by what the whole step learns."""
    loss = 0.0
    for micro_batch in step.micro_batches(rank=0):
        summed = training.objective(collate([training.examples[i] for i in micro_batch]))
        (summed / step.weight).backward()
        loss += summed.item()
    parameters = [p for group in training.optimizer.param_groups for p in group["params"]]
    torch.nn.utils.clip_grad_norm_(parameters, training.max_grad_norm)
    training.optimizer.step()
    training.schedule.step()
    training.optimizer.zero_grad(set_to_none=True)
    return loss / step.weight


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
