"""What Linux says of a process and those it has started: peak memory, and the time processors worked for it."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_BEHIND_NAME = 11
"""Fields of /proc/PID/stat between the name, which may hold blanks, and utime; stime follows."""


@dataclass(frozen=True, slots=True)
class Seen:
    """The largest peak RSS of any of them, and processor seconds of all."""

    peak_bytes: int
    cpu_seconds: float

    def later(self, other: "Seen") -> "Seen":
        """Neither goes back when a process ends."""
        return Seen(max(self.peak_bytes, other.peak_bytes), max(self.cpu_seconds, other.cpu_seconds))


def look(pid: int) -> Seen:
    """At a process and its descendants; nothing where it is gone.

    The peak is VmHWM: what `wait4` tells begins with the memory of the process that forked it, ours.
    """
    place = Path(f"/proc/{pid}")
    try:
        status, stat = (place / "status").read_text(), (place / "stat").read_text()
        children = (place / "task" / str(pid) / "children").read_text().split()
    except OSError:
        return Seen(0, 0.0)
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    # Fields: utime, stime, and those of the children that have ended.
    ticks = sum(map(int, stat.rpartition(")")[2].split()[_BEHIND_NAME : _BEHIND_NAME + 4]))
    below = [look(int(child)) for child in children]
    peak = max([int(found[1]) * 1_024 if found else 0, *(child.peak_bytes for child in below)])
    return Seen(peak, ticks / _TICKS + sum(child.cpu_seconds for child in below))
