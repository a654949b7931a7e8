"""Figures of this machine that no file tells: measured where torch is loaded, kept for who does not load it.

    <cache>/processor/<key>.json    {"slowdown": {"BF16": 9.1, "F16": 9.4}, "library_bytes": 443535360}

The key is what the figures depend on: the processor, limits set on it, and the versions of Python and torch.
"""

import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

from finetune import log
from finetune.disk import cache_folder, write_atomically
from finetune.errors import StorageError

_LIMITS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "DNNL_DEFAULT_FPMATH_MODE")
_MEASURE = "finetune.train.measure"
"""Prints the figures as JSON: a process of its own, because nothing here loads torch."""
_METHOD = 2
"""Of measuring: figures of another one are not found."""


@dataclass(frozen=True, slots=True)
class Processor:
    """What a product costs on this CPU, and what a process takes before any model.

    slowdown: of a dtype, as safetensors spells it, how many times longer a product takes than in float32; one
    that is not named takes as long. library_bytes: resident with torch, transformers and peft; 0: not measured.
    """

    slowdown: Mapping[str, float] = field(default_factory=dict)
    library_bytes: int = 0


def processor() -> Processor:
    """As measured before, else measured now, which takes seconds; where that fails, nothing is known."""
    found = kept()
    if found is not None and found.library_bytes:
        return found
    log.info("measuring the memory of the libraries and the speed of products, once for this machine")
    try:
        said = subprocess.run([sys.executable, "-m", _MEASURE], check=True, capture_output=True, timeout=300)
        measured = _parsed(said.stdout)
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError) as error:
        log.warning(f"this machine could not be measured ({error}); the memory of the libraries is left out")
        return found or Processor()
    keep(measured)
    return measured


def kept() -> Processor | None:
    """What was measured before; None where nothing was."""
    try:
        return _parsed(_file().read_bytes())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def keep(measured: Processor) -> None:
    """For later runs; a cache that cannot be written costs them the time to measure again."""
    with suppress(StorageError):
        write_atomically(_file(), json.dumps(asdict(measured)).encode())


def _parsed(content: bytes) -> Processor:
    found = json.loads(content)
    slowdown = {str(name): float(factor) for name, factor in found["slowdown"].items()}
    return Processor(slowdown, int(found["library_bytes"]))


def _file() -> Path:
    limits = [os.environ.get(name) for name in _LIMITS]
    depends_on = [_METHOD, sys.executable, platform.python_version(), version("torch"), _model(), limits]
    return cache_folder() / "processor" / f"{hashlib.sha256(repr(depends_on).encode()).hexdigest()[:16]}.json"


def _model() -> str:
    """The processor's name and abilities."""
    try:
        first = Path("/proc/cpuinfo").read_text().split("\n\n", 1)[0].splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join(line for line in first if line.startswith(wanted))
