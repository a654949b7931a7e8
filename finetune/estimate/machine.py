"""How much main memory a process may still take, and sizes as people write them."""

import os
import re
import resource
from contextlib import suppress
from pathlib import Path

from finetune.errors import ConfigError

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?\s*", re.IGNORECASE)
_CGROUPS = Path("/sys/fs/cgroup")


def parse_size(text: str) -> int:
    """Bytes of `24GB`, `80 GiB` or a plain number. Raises ConfigError."""
    found = _SIZE.fullmatch(text)
    if found is None or not float(found[1]):
        raise ConfigError(f"{text!r} is no number of bytes; write it as 24GB, 80GiB or 24000000000")
    unit = (found[2] or "").lower()
    return int(float(found[1]) * (_UNITS | _BINARY)[unit])


def in_words(size: int) -> str:
    """Bytes as people read them: 1.38 GB, 24 GB, 12 MB."""
    if size < 10**9:
        return f"{size / 10**6:.0f} MB"
    return f"{size / 10**9:.2f} GB" if size < 10**10 else f"{size / 10**9:.0f} GB"


def free_bytes(processes: int = 1) -> int:
    """What each of the `processes` of this machine may hold in all, with what this one holds already."""
    own = resident_bytes()
    return own + max(0, min(available_bytes(), *_container_room()) // processes)


def resident_bytes() -> int:
    """Main memory that this process holds now."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return pages * os.sysconf("SC_PAGE_SIZE")


def total_bytes() -> int:
    """All main memory of the machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def available_bytes() -> int:
    """Main memory that can be had without swapping; all of it where the system does not say."""
    try:
        fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return total_bytes()


def container_limit() -> int | None:
    """The most that the control groups of this process allow; None where they set no limit."""
    limits = []
    for limit, _, _ in _container_files():
        with suppress(OSError, ValueError):  # no limit ("max"), or no such controller
            limits.append(int(limit.read_text()))
    return min(limits, default=None)


def _container_room() -> list[int]:
    """What each control group of this process still allows; what its page cache takes can be had back."""
    rooms = []
    for limit, used, files in _container_files():
        try:
            most = int(limit.read_text())
            cached = dict(line.split() for line in files.read_text().splitlines())
            room = most - int(used.read_text()) + int(cached.get("inactive_file", 0))
        except (OSError, ValueError):
            continue  # no limit ("max"), or no such controller
        rooms.append(max(0, room))
    return rooms or [total_bytes()]


def _container_files() -> list[tuple[Path, Path, Path]]:
    """Limit, usage and statistics of each group above this process, by cgroup version 2 and 1."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if not controllers:
            root, names = _CGROUPS, ("memory.max", "memory.current", "memory.stat")
        elif "memory" in controllers.split(","):
            root, names = _CGROUPS / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat")
        else:
            continue
        inner = Path(name.lstrip("/"))
        folders = [root / inner, *(root / above for above in inner.parents)]
        found += [
            (folder / names[0], folder / names[1], folder / names[2]) for folder in dict.fromkeys(folders)
        ]
    return found
