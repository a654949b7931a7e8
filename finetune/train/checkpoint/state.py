"""Everything a training needs to go on exactly, by parameter name and free of the number of processes.

    training_state.safetensors   trainable/<parameter>   optimizer/<parameter>/<key>   rng/<rank>/<generator>
    training_state.json          step, schedule, optimizer groups and scalars, counters, best

Nothing is pickled and nothing unpickled. The data position is the step: the plan is a pure function of it.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from finetune.errors import CheckpointError

TENSORS_FILE = "training_state.safetensors"
SCALARS_FILE = "training_state.json"
SHARD_BYTES = 4_000_000_000
"""Tensors from a GPU are copied before they are written: this bounds the copies."""


class Parts:
    """A tensor that lies in parts over the processes of a run, to be put together when it is written.

    `gather` needs all processes at once, so all put the same tensors together in the same order: what one of
    them has no use for (it does not write, or its disk is full) it still asks for with `finish`.
    """

    def __init__(self, shape: torch.Size, dtype: torch.dtype, gather: Callable[[], Tensor]) -> None:
        self.shape, self.dtype, self._gather = shape, dtype, gather
        self.asked = False

    @property
    def nbytes(self) -> int:
        """Of the whole."""
        return self.shape.numel() * self.dtype.itemsize

    def whole(self) -> Tensor:
        """The whole tensor, in every process."""
        self.asked = True
        return self._gather()


def put_together(tensor: Tensor | Parts) -> Tensor:
    """The tensor itself, or its parts gathered from all processes."""
    return tensor.whole() if isinstance(tensor, Parts) else tensor.detach()


def finish(tensors: Iterable[Tensor | Parts]) -> None:
    """Take part in gathering what this process did not ask for itself; in the order in which others write."""
    for tensor in tensors:
        if isinstance(tensor, Parts) and not tensor.asked:
            tensor.whole()


@dataclass(frozen=True, slots=True)
class Best:
    """The best checkpoint so far."""

    checkpoint: str
    """Folder name."""
    metric: str
    value: float


@dataclass(slots=True)
class OptimizerState:
    """An optimizer's memory by parameter name."""

    tensors: dict[str, dict[str, Tensor | Parts]]
    """Parameter -> key (exp_avg, momentum_buffer, state1 …) -> tensor."""
    scalars: dict[str, dict[str, Any]]
    """Parameter -> key -> number; what some optimizers keep outside tensors."""
    groups: list[dict[str, Any]]
    """Hyperparameters of each group, with its parameters' names under `parameters`."""


@dataclass(slots=True)
class TrainState:
    """A training between two steps. Tensors may be the live ones: it is written at once or not kept."""

    step: int
    """Optimizer steps finished."""
    trainable: Mapping[str, Tensor | Parts]
    optimizer: OptimizerState
    schedule: dict[str, Any]
    rng: dict[str, Tensor]
    """`<rank>/<generator>` -> uint8 tensor."""
    counters: dict[str, Any] = field(default_factory=dict)
    """Whatever the loop adds up: tokens seen, seconds, steps skipped."""
    best: Best | None = None

    @property
    def bytes(self) -> int:
        """Size of all tensors together."""
        return sum(tensor.nbytes for tensor in self.tensors().values())

    def tensors(self) -> dict[str, Tensor | Parts]:
        """Everything that TENSORS_FILE holds, under its names there and in its order."""
        return {
            **{f"trainable/{name}": tensor for name, tensor in self.trainable.items()},
            **{
                f"optimizer/{name}/{key}": tensor
                for name, tensors in self.optimizer.tensors.items()
                for key, tensor in tensors.items()
            },
            **{f"rng/{name}": tensor for name, tensor in self.rng.items()},
        }


def write_state(folder: Path, state: TrainState) -> None:
    """Write both files. The bytes depend on the state alone."""
    for index, shard in enumerate(_shards(state.tensors())):
        name = TENSORS_FILE if index == 0 else TENSORS_FILE.replace(".", f"-{index + 1:05}.")
        save_file(_disjoint(shard), folder / name, metadata={"format": "pt"})
    scalars = {
        "step": state.step,
        "schedule": state.schedule,
        "optimizer": {"groups": state.optimizer.groups, "scalars": state.optimizer.scalars},
        "counters": state.counters,
        "best": asdict(state.best) if state.best else None,
    }
    (folder / SCALARS_FILE).write_text(
        json.dumps(scalars, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )


def _shards(tensors: Mapping[str, Tensor | Parts]) -> Iterator[dict[str, Tensor]]:
    shard: dict[str, Tensor] = {}
    size = 0
    for name, tensor in tensors.items():
        if shard and size + tensor.nbytes > SHARD_BYTES:
            yield shard
            shard, size = {}, 0
        shard[name] = put_together(tensor)
        size += tensor.nbytes
    yield shard


def _disjoint(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors of which no two share memory (8-bit optimizers share their quantization tables)."""
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage().data_ptr()
        result[name] = tensor.clone() if storage in seen else tensor.contiguous()
        seen.add(storage)
    return result


def read_state(checkpoint: Path) -> TrainState:
    """Read what `write_state` wrote, on the CPU. Raises CheckpointError where the checkpoint holds no state.

    The tensors are views of the files, read when they are used. Verify the checkpoint first: nothing here
    notices a flipped byte.
    """
    if not (checkpoint / SCALARS_FILE).exists():
        raise CheckpointError(f"{checkpoint}: holds a model but no training state (save_only_model: true)")
    scalars = json.loads((checkpoint / SCALARS_FILE).read_text(encoding="utf-8"))
    trainable: dict[str, Tensor] = {}
    rng: dict[str, Tensor] = {}
    memory: dict[str, dict[str, Tensor | Parts]] = {name: {} for name in scalars["optimizer"]["scalars"]}
    for path in sorted(checkpoint.glob(TENSORS_FILE.replace(".", "*."))):
        for name, tensor in load_file(path).items():
            kind, _, rest = name.partition("/")
            match kind:
                case "trainable":
                    trainable[rest] = tensor
                case "optimizer":
                    parameter, _, key = rest.rpartition("/")
                    memory[parameter][key] = tensor
                case "rng":
                    rng[rest] = tensor
    return TrainState(
        step=scalars["step"],
        trainable=trainable,
        optimizer=OptimizerState(memory, scalars["optimizer"]["scalars"], scalars["optimizer"]["groups"]),
        schedule=scalars["schedule"],
        rng=rng,
        counters=scalars["counters"],
        best=Best(**scalars["best"]) if scalars["best"] else None,
    )
