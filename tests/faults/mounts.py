"""Small and read-only file systems that are real: mounted in a namespace that ends with the process."""

import ctypes
import os
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

CANNOT_MOUNT = "FINETUNE_TESTS_CANNOT_MOUNT"
"""Set to 1 where no file system can be mounted (some containers): these tests are then skipped, and say so."""

_NEW_MOUNTS, _NEW_USER = 0x00020000, 0x10000000
_READ_ONLY, _REMOUNT, _BIND, _RECURSIVE, _PRIVATE = 0x1, 0x20, 0x1000, 0x4000, 0x40000


def with_mounts(work: Callable[[], None]) -> None:
    """Do `work` in a child that may mount: what is mounted there is seen by it and its children alone.

    AssertionError with the child's traceback where it fails.
    """
    if os.environ.get(CANNOT_MOUNT) == "1":
        pytest.skip(f"{CANNOT_MOUNT}=1: full and read-only disks are not tested on this machine")
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        said = ""
        try:
            said = _work_with_mounts(work)
        finally:  # a child must never go on as a second pytest
            os.write(writing, said.encode()[-60_000:])
            os._exit(1 if said else 0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read().decode(errors="replace")
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code == 0, said or f"ended with {code}"


def _work_with_mounts(work: Callable[[], None]) -> str:
    """What went wrong, or nothing."""
    try:
        _leave_namespaces()
        _mount(None, Path("/"), None, _RECURSIVE | _PRIVATE)
    except OSError as error:
        return f"no file system can be mounted here ({error}); allow it, or set {CANNOT_MOUNT}=1"
    try:
        work()
    except BaseException:
        return traceback.format_exc()
    return ""


def _leave_namespaces() -> None:
    user, group = os.getuid(), os.getgid()
    _call("unshare", _NEW_MOUNTS if user == 0 else _NEW_MOUNTS | _NEW_USER)
    if user != 0:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")


def mount_small(folder: Path, kilobytes: int) -> None:
    """An empty file system of that size."""
    folder.mkdir(parents=True, exist_ok=True)
    _mount("tmpfs", folder, "tmpfs", 0, f"size={kilobytes}k")


def resize(folder: Path, kilobytes: int) -> None:
    """Another size for what `mount_small` mounted."""
    _mount("tmpfs", folder, "tmpfs", _REMOUNT, f"size={kilobytes}k")


def mount_read_only(folder: Path) -> None:
    """What lies in the folder, not to be written."""
    _mount(str(folder), folder, None, _BIND)
    _mount(None, folder, None, _REMOUNT | _BIND | _READ_ONLY)


def _mount(source: str | None, target: Path, kind: str | None, flags: int, options: str = "") -> None:
    texts = [None if text is None else text.encode() for text in (source, str(target), kind, options)]
    _call("mount", texts[0], texts[1], texts[2], ctypes.c_ulong(flags), texts[3])


def _call(name: str, *arguments: object) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
