"""`--profile`: where the time of a step goes, as a table a person reads and a trace a browser opens.

Modules are labelled by what they do while a few steps run; the backward pass of an operation counts for the
part whose forward recorded it (autograd numbers both alike). Labels are hooks, which are not free: a run that
is not profiled has none, and one that is computes the same numbers.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn
from torch.autograd import DeviceType
from torch.profiler import profile, record_function, supported_activities

from finetune import disk, log
from finetune.folder import TRACE_FILE
from finetune.workspace import workspace

WARM_UP = 2
"""Steps before the first that is looked at: kernels are chosen and memory is reserved in them."""
WATCHED = 3

_LABEL = "part of a step: "
_REST = "everything between"
_BACKWARD = "autograd::engine::evaluate_function"
_OPTIMIZER = "Optimizer.step#"


@dataclass(slots=True)
class Part:
    """What one part of a step takes; milliseconds, over all steps that were watched."""

    forward: float = 0.0
    backward: float = 0.0
    host: float = 0.0
    """Of the CPU, also where the work itself is a GPU's."""
    calls: int = 0

    @property
    def total(self) -> float:
        return self.forward + self.backward


@dataclass(slots=True)
class Profile:
    """Watches steps `first` to `last`, counted from 1 as people count them, of one run on one process."""

    output: Path
    model: nn.Module
    first: int
    last: int
    _profiler: Any = None
    _labels: ExitStack = field(default_factory=ExitStack)

    @classmethod
    def of_run(cls, output: Path, model: nn.Module, start_step: int, total_steps: int) -> "Profile":
        """The steps behind the warm-up; of a run that is shorter, its last."""
        first = min(start_step + WARM_UP + 1, total_steps)
        return cls(output, model, first, min(first + WATCHED - 1, total_steps))

    @contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Entered for each step of the run; the trace is written and the table said behind the last one."""
        if not self.first <= number <= self.last:
            yield
            return
        if number == self.first:
            self._begin()
        try:
            with record_function(_LABEL + _REST):
                yield
        except BaseException:
            self._end()
            raise
        if number == self.last:
            self._end()
            self._tell()

    def _begin(self) -> None:
        log.info(f"profiling steps {self.first} to {self.last}")
        for name, module in self.model.named_modules():
            if (part := part_of(name, module)) is not None:
                _label(module, part, self._labels)
        self._profiler = profile(activities=supported_activities())
        self._profiler.start()

    def _end(self) -> None:
        self._profiler.stop()
        self._labels.close()

    def _tell(self) -> None:
        target = self.output / TRACE_FILE
        with disk.storage_errors(target), workspace(self.output) as work:
            self._profiler.export_chrome_trace(str(work / TRACE_FILE))
            (work / TRACE_FILE).rename(target)
        for line in table(parts_of(self._profiler.events()), self.last - self.first + 1):
            log.info(line)
        log.info(f"every operation of these steps: {target} (open it in https://ui.perfetto.dev)")
        self._profiler = None


def part_of(name: str, module: nn.Module) -> str | None:
    """What a module does, in a word; None: it has no part of its own, and counts for what calls it."""
    kind, last = type(module).__name__, name.rpartition(".")[2]
    if any(f"lora_{which}" in name.split(".") for which in "AB") and isinstance(module, nn.Linear):
        return "adapter"
    if last in ("lm_head", "output_layer"):
        return "head"
    if isinstance(module, nn.Embedding):
        return "embeddings"
    if "Linear" in kind:  # torch's, those of 4 and 8 bits, and what is put around them (LoRA is a part of ours)
        return "linear layers"
    for word, part in (("Norm", "norms"), ("Rotary", "rotary positions"), ("Attention", "attention")):
        if word in kind:
            return part
    if "MLP" in kind or last == "mlp":
        return "activations of the MLP"
    if "ForCausalLM" in kind:
        return "residuals and the like"
    return None if name else "loss"


def _label(module: nn.Module, part: str, undo: ExitStack) -> None:
    """Name what happens inside a module's forward, however it ends."""
    running: list[record_function] = []

    def enter(module: nn.Module, given: Any) -> None:
        running.append(record_function(_LABEL + part))
        running[-1].__enter__()

    def leave(module: nn.Module, given: Any, result: Any) -> None:
        with suppress(IndexError):
            running.pop().__exit__(None, None, None)

    undo.callback(module.register_forward_pre_hook(enter, prepend=True).remove)
    undo.callback(module.register_forward_hook(leave, always_call=True).remove)


def parts_of(events: Iterable[Any]) -> dict[str, Part]:
    """What the profiler's events (FunctionEvent of torch) add up to, by part."""
    of_cpu = [event for event in events if event.device_type == DeviceType.CPU]
    on_device = any(event.self_device_time_total for event in of_cpu)
    labelled = _forward_labels(of_cpu)
    parts: defaultdict[str, Part] = defaultdict(Part)
    for event in of_cpu:
        name, backward = _part_of_event(event, labelled)
        part, host = parts[name], event.self_cpu_time_total / 1000
        taken = event.self_device_time_total / 1000 if on_device else host
        if backward:
            part.backward += taken
        else:
            part.forward += taken
        part.host += host
        part.calls += event.name == _LABEL + name or (name == "optimizer" and _OPTIMIZER in event.name)
    return dict(parts)


def _forward_labels(events: Iterable[Any]) -> dict[tuple[int, int], str]:
    """(thread, number that autograd gave the operation) -> part."""
    labels = {}
    for event in events:
        if event.sequence_nr >= 0 and not any(_BACKWARD in e.name for e in _with_parents(event)):
            labels[event.thread, event.sequence_nr] = _nearest(event) or _REST
    return labels


def _part_of_event(event: Any, labelled: Mapping[tuple[int, int], str]) -> tuple[str, bool]:
    for above in _with_parents(event):
        if above.name.startswith(_LABEL):
            return above.name.removeprefix(_LABEL), False
        if _OPTIMIZER in above.name:
            return "optimizer", False
        if _BACKWARD in above.name:
            key = (above.fwd_thread or above.thread, above.sequence_nr)
            return labelled.get(key) or "gradients, added up", True
    return _REST, False


def _nearest(event: Any) -> str | None:
    labels = (e.name.removeprefix(_LABEL) for e in _with_parents(event) if e.name.startswith(_LABEL))
    return next(labels, None)


def _with_parents(event: Any) -> Iterator[Any]:
    while event is not None:
        yield event
        event = event.cpu_parent


def table(parts: Mapping[str, Part], steps: int) -> list[str]:
    """One line a part, the slowest first; milliseconds a step."""
    whole = sum(part.total for part in parts.values()) or 1.0
    lines = [f"{'part of a step':<24}{'share':>7}{'forward':>12}{'backward':>12}{'CPU':>12}{'calls':>8}"]
    for name, part in sorted(parts.items(), key=lambda pair: -pair[1].total):
        times = "".join(f"{ms / steps:>9.1f} ms" for ms in (part.forward, part.backward, part.host))
        lines.append(f"{name:<24}{100 * part.total / whole:>5.1f} %{times}{part.calls / steps:>8.0f}")
    return lines
