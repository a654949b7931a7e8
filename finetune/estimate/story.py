"""`finetune estimate`: what a run will need, told before it begins."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finetune.config.load import load_config
from finetune.config.schema import Config
from finetune.data.dataset import load_examples, template_under
from finetune.data.plan import steps_in
from finetune.errors import ConfigError
from finetune.estimate.choose import Choice, choose_setup, may_recompute, told
from finetune.estimate.machine import free_bytes, in_words, parse_size
from finetune.estimate.precision import NAMES
from finetune.estimate.processor import processor
from finetune.estimate.remedies import smallest_change
from finetune.estimate.setup import Device, Load, Setup
from finetune.estimate.shape import read_shape
from finetune.estimate.work import SPEEDS, Work, flops_per_token


@dataclass(frozen=True, slots=True)
class Estimate:
    """What `finetune estimate` found. `free`: bytes of a device; `steps`, `tokens`: of the whole run."""

    model: str
    setup: Setup
    work: Work
    choice: Choice
    free: int
    stated: bool
    steps: int
    tokens: int
    change: str | None

    @property
    def load(self) -> Load:
        return self.work.load(self.choice.tokens)

    @property
    def flops(self) -> float:
        setup = replace(self.setup, recompute=self.choice.recompute)
        return flops_per_token(setup, self.work) * self.tokens

    @property
    def seconds(self) -> tuple[float, float]:
        """From the fastest to the slowest device of its class."""
        slowest, fastest = SPEEDS[self.setup.device]
        return self.flops / self.setup.ranks / fastest, self.flops / self.setup.ranks / slowest

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return {
            "model": self.model,
            "parameters": self.setup.shape.parameters,
            "trainable": self.setup.method.trainable,
            "tuning": self.setup.method.kind,
            "processes": self.setup.ranks,
            "memory": {"parts": dict(self.choice.memory.parts), "peak_bytes": self.choice.memory.total},
            "free_bytes": self.free,
            "fits": self.choice.fits,
            "computed_in": NAMES.get(self.setup.precision.computed, self.setup.precision.computed),
            "change": self.change,
            "tokens_per_micro_batch": self.choice.tokens,
            "recomputed_layers": replace(self.setup, recompute=self.choice.recompute).recomputed_layers,
            "conversations": self.work.conversations or None,
            "steps": self.steps,
            "tokens": self.tokens,
            "flops": self.flops,
            "seconds": list(self.seconds),
        }

    def lines(self) -> Iterator[str]:
        """For the screen."""
        shape, method = self.setup.shape, self.setup.method
        yield (
            f"{self.model}: {shape.parameters:,} weights in {shape.layers} layers; "
            f"{method.trainable:,} learn ({method.kind})"
        )
        yield from self._of_data()
        yield from self._of_memory()
        low, high = self.seconds
        slowest, fastest = SPEEDS[self.setup.device]
        yield (
            f"time: {_duration(low)} to {_duration(high)}: {self.flops / 1e12:,.0f} TFLOP at "
            f"{fastest / 1e12:g} to {slowest / 1e12:g} TFLOP/s a process"
        )

    def _of_data(self) -> Iterator[str]:
        work = self.work
        if work.conversations:
            yield (
                f"{work.conversations:,} conversations, {work.tokens:,} tokens ({100 * work.supervised:.0f} % "
                f"supervised), the longest {work.longest:,}"
            )
        else:
            yield (
                f"no data given (--data, --data-dir): assumed are conversations as long as the limits allow, "
                f"{work.longest:,} tokens, half of them supervised"
            )
        yield f"{self.steps:,} steps, {self.tokens:,} tokens in all"

    def _of_memory(self) -> Iterator[str]:
        load, memory = self.load, self.choice.memory
        if line := self.setup.precision.line():
            yield line
        yield f"memory of a process, with {load.tokens:,} tokens at once ({load.supervised:,} supervised):"
        for name, size in memory.parts.items():
            yield f"  {name:<16} {in_words(size):>10}"
        verdict = "fits into" if self.choice.fits else "does not fit into"
        yield f"  {'in all':<16} {in_words(memory.total):>10}  {verdict} {in_words(self.free)} ({self._place})"
        yield from told(self.setup, self.choice, self.free, chosen=False)
        if not self.choice.fits:
            yield f"it would fit with {self.change}" if self.change else "no change that is known makes it fit"

    @property
    def _place(self) -> str:
        return "--gpu" if self.stated else "free main memory here"


def estimate(
    model: str,
    config: Path,
    overrides: Sequence[str] = (),
    *,
    data: str | None = None,
    data_dir: Path | None = None,
    gpu: str | None = None,
    processes: int = 1,
) -> Estimate:
    """What training `model` as `config` says needs in each of `processes`.

    data: a file to train on; data_dir: where the files of the configuration lie; neither: conversations as long
    as the limits allow. gpu: the memory of one, such as `24GB`; None: on this machine's CPU.
    Raises a FinetuneError where model, configuration or data cannot be used.
    """
    if data is not None and data_dir is not None:
        raise ConfigError("--data and --data-dir: give the file, or the folder of the configuration's files")
    free = free_bytes(processes) if gpu is None else parse_size(gpu)
    device: Device = "cpu" if gpu is None else "cuda"
    chosen = [] if data is None else [f"data_config.train_file={json.dumps(data)}"]
    asked = load_config(config, [*overrides, *chosen], data_dir=data_dir)
    shape = read_shape(model)
    figures = processor() if device == "cpu" else None
    setup = Setup.of(asked, shape, device=device, ranks=processes, processor=figures)
    work = _work(asked, model, data_dir, processes, encode=data is not None or data_dir is not None)
    work = work.in_layout_of(asked, setup)
    stated = asked.run.tokens_per_micro_batch
    tokens = None if stated == "auto" else stated
    setup, choice = choose_setup(setup, work, free, tokens=tokens, may_recompute=may_recompute(asked, setup))
    change = None if choice.fits else smallest_change(setup, work, free, choice.tokens)
    steps, total = _length(asked, work, processes)
    return Estimate(model, setup, work, choice, free, gpu is not None, steps, total, change)


def _work(config: Config, model: str, data_dir: Path | None, processes: int, *, encode: bool) -> Work:
    per_step = _per_step(config, processes)
    longest = config.max_input_length + config.max_output_length
    if not encode:
        return Work.assumed(longest, per_step, processes)
    template = template_under(config, model)
    files = config.data_config.train_file
    examples = load_examples(config.data_config, files, data_dir or Path(), template, max_length=longest)
    seed = config.order_seed
    return Work.of(examples, per_step, seed, processes, template.sight)


def _per_step(config: Config, processes: int) -> int:
    return config.run.conversations_per_step or config.training_args.batches.conversations(processes)


def _length(config: Config, work: Work, processes: int) -> tuple[int, int]:
    """Steps and tokens of the whole run; without data, of one epoch of one step unless max_steps says more."""
    schedule, per_step = config.training_args.schedule, _per_step(config, processes)
    conversations = work.conversations or per_step
    steps = steps_in(conversations, per_step, schedule.max_steps, schedule.num_train_epochs)
    each = work.tokens / work.conversations if work.conversations else work.longest
    shown = min(steps * per_step, round(schedule.num_train_epochs * conversations))
    if schedule.max_steps > 0 or not work.conversations:
        shown = steps * per_step
    return steps, round(shown * each)


def _duration(seconds: float) -> str:
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{max(1, seconds):.0f} s"
