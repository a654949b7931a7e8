"""The generators a training draws from, as uint8 tensors: torch on CPU and GPU, numpy, Python."""

import hashlib
import json
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from finetune import world


def capture_rng(rank: int = 0) -> dict[str, Tensor]:
    """Where this process's generators stand, as `<rank>/<generator>` -> uint8 tensor on the CPU."""
    states = {"cpu": torch.get_rng_state(), "python": _pack(random.getstate()), "numpy": _pack(_numpy_state())}
    if torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state()
    return {f"{rank}/{name}": state for name, state in states.items()}


def restore_rng(saved: Mapping[str, Tensor], rank: int = 0) -> bool:
    """Put this process's generators where they stood.

    Returns False, and changes nothing, where the checkpoint has none for this rank: it was saved by fewer
    processes, and the caller's own seeding stays.
    """
    states = {
        name.removeprefix(f"{rank}/"): state for name, state in saved.items() if name.startswith(f"{rank}/")
    }
    if not states:
        return False
    version, words, gauss = _unpack(states["python"])
    random.setstate((version, tuple(words), gauss))
    name, words, *rest = _unpack(states["numpy"])
    np.random.set_state((name, np.array(words, dtype=np.uint32), *rest))
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
    return True


def seed_apart(seed: int, *, step: int) -> None:
    """Let this process draw other numbers than the others. The first one draws, from the start, as if alone."""
    if step == 0 and world.rank() == 0:
        return
    own = hashlib.sha256(f"{seed} {step} {world.rank()}".encode()).digest()
    number = int.from_bytes(own[:4], "little")
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)


def _numpy_state() -> list[Any]:
    name, words, *rest = np.random.get_state(legacy=True)
    return [name, np.asarray(words).tolist(), *rest]


def _pack(value: Any) -> Tensor:
    return torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8)


def _unpack(tensor: Tensor) -> Any:
    return json.loads(bytes(tensor.tolist()))
