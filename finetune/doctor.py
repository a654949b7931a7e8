"""What this machine has, against what we were tested with. Looks, and never fails on what is missing.

Versions come from the installed metadata; torch is imported only to ask for devices.
"""

import os
import platform
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement
from packaging.version import Version

from finetune.disk import bytes_free, cache_folder
from finetune.estimate.machine import available_bytes, container_limit, total_bytes

DISTRIBUTION = "glm-finetune"
State = Literal["ok", "untested", "missing", "note"]
_MARKS: dict[State, str] = {"ok": "ok", "untested": "?", "missing": "-", "note": " "}
_GB = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Line:
    """One finding. `advice` is what to type or do, where there is something to do."""

    topic: str
    name: str
    value: str
    state: State = "ok"
    advice: str = ""


def doctor() -> list[Line]:
    """Everything worth knowing before a run: versions, devices, memory, disk and extras."""
    return [*_versions(), *_devices(), *_memory(), *_disk(), *_extras()]


def show(lines: Iterable[Line]) -> str:
    """The findings as a person reads them: a heading per topic, one line each."""
    rows, topic = [], ""
    for line in lines:
        if line.topic != topic:
            topic = line.topic
            rows.append(f"{topic}:")
        advice = f"  ->  {line.advice}" if line.advice else ""
        rows.append(f"  {_MARKS[line.state]:<2} {line.name:<18} {line.value}{advice}")
    return "\n".join([*rows, "", "ok: as tested   ?: present, but not a version we tested   -: absent"])


def _versions() -> Iterator[Line]:
    yield Line("versions", "python", f"{platform.python_version()} on {platform.platform(terse=True)}")
    tested = pinned_versions()
    yield from (_version_line(requirement, tested) for requirement in _requirements(""))


def pinned_versions() -> dict[str, str]:
    """Library -> the version it was tested with, from constraints.txt (in a wheel it lies in the package)."""
    package = Path(__file__).parent
    for path in (package / "constraints.txt", package.parent / "constraints.txt"):
        if path.is_file():
            pins = (line.split("#")[0].strip() for line in path.read_text().splitlines())
            return dict(pin.split("==") for pin in pins if pin)
    return {}


def _version_line(requirement: Requirement, tested: dict[str, str]) -> Line:
    name, newest = requirement.name, tested.get(requirement.name, "")
    span = (
        f"tested: {newest}; needed: {requirement.specifier}" if newest else f"needed: {requirement.specifier}"
    )
    installed = installed_version(name)
    if installed is None:
        return Line("versions", name, f"not installed ({span})", "missing", f"pip install '{requirement}'")
    state, advice = judge(installed, requirement, newest)
    return Line("versions", name, f"{installed} ({span})", state, advice)


def judge(installed: str, requirement: Requirement, newest: str) -> tuple[State, str]:
    """Whether a version lies in the tested range, from the floor to `newest`, and what to do if it does not."""
    if not requirement.specifier.contains(installed, prereleases=True):
        wanted = f"{requirement.name}=={newest}" if newest else str(requirement)
        return "untested", f"too old: pip install '{wanted}'"
    # The local part only says which build it is: 2.13.0+cpu is 2.13.0.
    if newest and Version(Version(installed).public) > Version(newest):
        return "untested", f"newer than tested; if it misbehaves: pip install '{requirement.name}=={newest}'"
    return "ok", ""


def installed_version(name: str) -> str | None:
    """The version of an installed distribution, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _requirements(extra: str) -> list[Requirement]:
    """What the distribution needs: without an extra, or what one extra adds to that."""
    try:
        everything = [Requirement(text) for text in metadata.requires(DISTRIBUTION) or ()]
    except metadata.PackageNotFoundError:
        return []
    base = [r for r in everything if r.marker is None or r.marker.evaluate({"extra": ""})]
    if not extra:
        return base
    return [r for r in everything if r not in base and r.marker and r.marker.evaluate({"extra": extra})]


def _devices() -> Iterator[Line]:
    yield Line("devices", "cpu", f"{_cores()} cores, {platform.machine()}", "note")
    if installed_version("torch") is None:
        yield Line(
            "devices", "gpu", "unknown: torch is not installed", "missing", "pip install 'torch==2.13.0'"
        )
        return
    import torch

    yield Line("devices", "torch threads", f"{torch.get_num_threads()}, {_instructions()}", "note")
    gpus = range(torch.cuda.device_count())
    yield from (_gpu(number) for number in gpus)
    if torch.backends.mps.is_available():
        yield Line("devices", "mps", "Apple GPU", "untested")
    elif not gpus:
        yield _no_gpu()


def _cores() -> int:
    """Cores this process may use; a container or taskset may leave it fewer than the machine has."""
    if platform.system() == "Linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _instructions() -> str:
    import torch

    return f"vector instructions {torch.backends.cpu.get_cpu_capability()}"


def _gpu(number: int) -> Line:
    import torch

    properties = torch.cuda.get_device_properties(number)
    bfloat16 = "bfloat16" if torch.cuda.is_bf16_supported() else "no bfloat16"
    capability = f"compute capability {properties.major}.{properties.minor}"
    try:
        free, total = torch.cuda.mem_get_info(number)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        return Line("devices", f"cuda:{number}", f"{properties.name}, cannot be used: {reason}", "untested")
    value = f"{properties.name}, {_gb(free)} of {_gb(total)} free, {capability}, {bfloat16}"
    return Line("devices", f"cuda:{number}", value)


def _no_gpu() -> Line:
    import torch

    build = f"torch {torch.__version__}"
    if torch.version.cuda:
        advice = "" if shutil.which("nvidia-smi") is None else "see what nvidia-smi says about the driver"
        return Line("devices", "gpu", f"none that {build} (CUDA {torch.version.cuda}) can use", "note", advice)
    advice = "" if shutil.which("nvidia-smi") is None else "there may be one: install torch's CUDA build"
    return Line("devices", "gpu", f"none: {build} is a CPU build", "note", advice)


def _memory() -> Iterator[Line]:
    total, limit = total_bytes(), container_limit()
    yield Line("memory", "main memory", f"{_gb(available_bytes())} of {_gb(total)} available", "note")
    if limit is not None and limit < total:
        yield Line("memory", "container limit", _gb(limit), "note")


def _disk() -> Iterator[Line]:
    folders = {"here": Path.cwd(), "our cache": cache_folder(), "Hub cache": _hub_cache()}
    for name, folder in folders.items():
        yield Line("disk", name, f"{_gb(bytes_free(folder))} free, {folder}", "note")


def _hub_cache() -> Path:
    return Path(os.environ.get("HF_HOME") or cache_folder().with_name("huggingface"))


def _extras() -> Iterator[Line]:
    try:
        extras = metadata.metadata(DISTRIBUTION).get_all("Provides-Extra") or []
    except metadata.PackageNotFoundError:
        yield Line("extras", DISTRIBUTION, "not installed", "missing", "pip install -c constraints.txt -e .")
        return
    yield from (_extra_line(extra) for extra in extras)


def _extra_line(extra: str) -> Line:
    versions = {requirement.name: installed_version(requirement.name) for requirement in _requirements(extra)}
    absent = sorted(name for name, version in versions.items() if version is None)
    if absent:
        advice = f"pip install '{DISTRIBUTION}[{extra}]'"
        return Line("extras", extra, f"lacks {', '.join(absent)}", "missing", advice)
    return Line("extras", extra, ", ".join(f"{name} {version}" for name, version in versions.items()))


def _gb(count: int) -> str:
    return f"{count / _GB:.1f} GB"
