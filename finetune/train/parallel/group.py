"""The processes that train one model, and how they agree. With one process nothing here loads torch.

What one process decides (which checkpoint, whose lock) the others take over; what one refuses, all refuse, so
that nobody waits for a process that is gone. Messages between processes are small and go over gloo, in a group
of their own: a process that fails between two of them never answers a question of the training itself.
"""

import re
import sys
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from finetune import world
from finetune.config.arguments import Placement
from finetune.errors import FinetuneError, RankFailedError, ToldError, exit_code_of

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

_BROKEN_OFF = re.compile(
    r"gloo|NCCL|closed by peer|reset by peer|Connection refused|Broken pipe|store.*(timed out|closed)",
    re.IGNORECASE,
)

_control: Any = None
"""The group for messages; None with one process."""
_device: "torch.device | None" = None


def join(section: Placement) -> "torch.device":
    """This process's device; where there are several processes, meet them first."""
    global _control, _device
    if _device is not None:
        return _device
    import torch
    from accelerate import PartialState

    if world.world_size() > 1:
        timeout = timedelta(seconds=section.ddp_timeout)
        _meet(section, timeout)
        _control = torch.distributed.new_group(backend="gloo", timeout=timeout)
    _device = PartialState(cpu=section.use_cpu).device
    if section.tf32 is not None:
        torch.backends.cuda.matmul.allow_tf32 = section.tf32
        torch.backends.cudnn.allow_tf32 = section.tf32
    return _device


def _meet(section: Placement, timeout: timedelta) -> None:
    """Enter torch's process group, on this process's own accelerator where there is one."""
    import torch
    from torch import distributed

    accelerator = None if section.use_cpu else torch.accelerator.current_accelerator(check_available=True)
    if accelerator is not None:
        torch.accelerator.set_device_index(world.local_rank())
    kind = "cpu" if accelerator is None else accelerator.type
    backend = section.ddp_backend or distributed.get_default_backend_for_device(kind)
    store, rank, size = next(distributed.rendezvous("env://", timeout=timeout))
    distributed.init_process_group(
        backend, store=_unused_part(store, rank, size), rank=rank, world_size=size, timeout=timeout
    )


def _unused_part(store: Any, rank: int, size: int) -> Any:
    """A part of the launcher's store that no earlier start of this job has written to.

    torchrun keeps one store over its restarts. A process that finds there the address which another one had
    before the restart cannot connect to it. So the first process draws a name for the part, and tells it to all
    that ask now; what asked before the restart is answered too, and does not hear it.
    """
    from torch.distributed import PrefixStore

    if rank > 0:
        own = uuid.uuid4().hex
        store.append("finetune/asked", own)
        name = store.get(f"finetune/answer/{own}").decode()
        store.add(f"finetune/{name}/heard", 1)
        return PrefixStore(f"finetune/{name}", store)
    name, answered = uuid.uuid4().hex, 0
    while store.add(f"finetune/{name}/heard", 0) < size - 1:
        asked = store.get("finetune/asked").decode()
        for start in range(answered, len(asked), len(name)):
            store.set(f"finetune/answer/{asked[start : start + len(name)]}", name)
        answered = len(asked)
        time.sleep(0.005)
    return PrefixStore(f"finetune/{name}", store)


@dataclass(frozen=True, slots=True)
class _Failure:
    rank: int
    exit_code: int
    message: str


@contextmanager
def together() -> Iterator[None]:
    """What ends the block in one process ends it in all. Every process must come by, and none may wait inside.

    The main process raises the error, its own or `rank 1: …`; the others raise ToldError with its exit code.
    """
    if world.world_size() == 1:
        yield
        return
    error: Exception | None = None
    try:
        yield
    except Exception as raised:
        error = raised
    failures = [failure for failure in gather(_describe(error)) if failure is not None]
    if not failures:
        return
    first = failures[0]
    if not world.is_main():
        raise ToldError(first.message, first.exit_code) from error
    if error is not None:
        raise error
    problem = RankFailedError(f"rank {first.rank}: {first.message}")
    problem.exit_code = first.exit_code
    raise problem


def _describe(error: Exception | None) -> _Failure | None:
    if error is None:
        return None
    if isinstance(error, FinetuneError):
        return _Failure(world.rank(), error.exit_code, str(error))
    if not world.is_main():  # a defect: its place in the program would be lost
        print(f"rank {world.rank()}:", file=sys.stderr)
        traceback.print_exception(error)
    return _Failure(world.rank(), exit_code_of(error), f"{type(error).__name__}: {error}")


def decide(question: Callable[[], T]) -> T:
    """The main process's answer, in every process; its error, in every process."""
    if world.world_size() == 1:
        return question()
    answer: list[Any] = [None]
    with together():
        if world.is_main():
            answer[0] = question()
    import torch

    torch.distributed.broadcast_object_list(answer, src=0, group=_control)
    return answer[0]


def in_turn(work: Callable[[], T]) -> T:
    """What `work` makes, in every process: first in one of each node, then, from its caches, in the others."""
    made: list[T] = []
    for turn in (True, False):
        with together():
            if (world.local_rank() == 0) is turn:
                made.append(work())
        if world.world_size() == 1:
            break
    return made[0]


def gather(value: T) -> list[T]:
    """One value of each process, by rank, in every process. Values are pickled among processes of one run."""
    if world.world_size() == 1:
        return [value]
    import torch

    values: list[Any] = [None] * world.world_size()
    torch.distributed.all_gather_object(values, value, group=_control)
    return values


@contextmanager
def noticing_losses() -> Iterator[None]:
    """Name what it means that an exchange broke off: another process is gone. Raises RankFailedError."""
    try:
        yield
    except RuntimeError as error:
        if world.world_size() == 1 or not _BROKEN_OFF.search(str(error)):
            raise
        reason = str(error).strip().splitlines()[0].split(". ")[0]
        raise RankFailedError(
            f"another process of this run has ended, and this one cannot go on without it ({reason}); "
            "RESUME yes goes on from the last checkpoint"
        ) from error


def total(number: float) -> float:
    """The sum over all processes, in float64."""
    if world.world_size() == 1:
        return number
    import torch

    tensor = torch.tensor(number, dtype=torch.float64)
    torch.distributed.all_reduce(tensor, group=_control)
    return float(tensor)


def anywhere(value: T | None) -> T | None:
    """What any process has, the first by rank; None where none has."""
    if world.world_size() == 1 or not total(value is not None):
        return value
    return next(found for found in gather(value) if found is not None)
