"""Real runs on disks that are full, read-only or no folders at all, and in folders of odd names."""

import errno
import json
import os
import random
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from finetune.folder import checkpoints, verify
from finetune.printing import one_line
from finetune.train.run import train
from tests.command import Done, finetune
from tests.faults.mounts import mount_read_only, mount_small, resize, with_mounts
from tests.faults.runs import OFTEN, Child, Run, assert_same_end, at_call, content, fork
from tests.tiers import NIGHTLY, by_tier
from tests.train.conftest import LORA, Configure

ERRORS = (errno.ENOSPC, errno.EIO, errno.EROFS, errno.EACCES, errno.EDQUOT)


@pytest.fixture
def straight(undisturbed: Callable[[str], Run]) -> Run:
    """A full fine-tuning that nothing happened to: checkpoints of about 600 kB."""
    return undisturbed("full")


@pytest.fixture
def crowded(small: Path, data: Path, configure: Configure) -> Run:
    """The same run; its folder will be a file system of its own."""
    return Run(data, small, configure(None, "crowded", **OFTEN), data.parent / "crowded")


def assert_no_room(child: Child, name: str) -> str:
    """It ended with 8, and says what does not fit; what it says."""
    assert child.wait() == 8, child.said[-3000:]
    error = child.said[child.said.rindex("error: ") :]
    assert name in error and "make room, or write elsewhere" in error, error
    assert "Traceback" not in child.said
    return error


def assert_whole(output: Path, newest: int) -> dict[str, bytes]:
    """The newest checkpoint, whole, and nothing half written beside it; its content."""
    assert checkpoints(output)[0].name == f"checkpoint-{newest}"
    for checkpoint in checkpoints(output):
        verify(checkpoint)
    assert not list(output.glob("tmp-*"))
    return content(checkpoints(output)[0])


def kilobytes(folder: Path) -> int:
    return sum(len(file) for file in content(folder).values()) // 1000


def fill(folder: Path, left: int = 0) -> None:
    """Leave so many bytes free."""
    free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_bsize
    (folder / "somebody-else's").write_bytes(bytes(free - left))


def test_a_checkpoint_that_does_not_fit_is_told_with_both_numbers_and_room_mends_it(
    straight: Run, crowded: Run
) -> None:
    one = kilobytes(straight.output / "checkpoint-12")
    assert 300 < one < 1500

    def work() -> None:
        # The first one may need a megabyte more than its tensors; then it is known what one needs.
        mount_small(crowded.output, one * 11 // 4)
        told = assert_no_room(crowded.start(), "checkpoint-6")
        needed, free = (int(number) for number in re.findall(r"\((\d+) bytes\)", told))
        assert needed == verify(crowded.output / "checkpoint-4").bytes > free > 0
        assert " needs " in told and " are free" in told
        before = assert_whole(crowded.output, 4)
        told = json.loads((crowded.output / "run.json").read_text())
        assert (told["status"], told["exit_code"]) == ("failed", 8) and "checkpoint-6" in told["error"]
        assert_no_room(crowded.start(), "checkpoint-6")  # still
        assert assert_whole(crowded.output, 4) == before
        resize(crowded.output, one * 5)
        crowded.to_the_end()
        assert_same_end(crowded.output, straight.output)

    with_mounts(work)


@pytest.mark.parametrize(
    ("place", "left", "name", "newest"),
    [
        (("finetune.train.loop", "collate", 1), 0, "metrics.jsonl: the disk is full", None),
        (("finetune.train.loop", "collate", 5), 0, "checkpoint-6 needs", 4),
        pytest.param(("finetune.train.loop", "collate", 5), 100_000, "checkpoint-6 needs", 4, marks=NIGHTLY),
        (("finetune.train.checkpoint.save", "_write_and_publish", 2), 0, "checkpoint-4: the disk is full", 2),
        (("finetune.train.checkpoint.save", "write_state", 2), 0, "checkpoint-4: the disk is full", 2),
        pytest.param(
            ("finetune.train.checkpoint.save", "write_state", 2),
            300_000,
            "checkpoint-4: the disk is full",
            2,
            marks=NIGHTLY,
        ),
        (("finetune.train.checkpoint.save", "_manifest", 2), 0, "checkpoint-4: the disk is full", 2),
        (("finetune.train.session", "_test", 1), 0, "run.json: the disk is full", 12),
    ],
    ids=lambda value: value[1].strip("_") if isinstance(value, tuple) else str(value).split(":")[0],
)
def test_a_disk_that_fills_while_a_run_goes_on_harms_nothing_saved_before(
    place: tuple[str, str, int], left: int, name: str, newest: int | None, straight: Run, crowded: Run
) -> None:
    one = kilobytes(straight.output / "checkpoint-12")

    def work() -> None:
        mount_small(crowded.output, one * 5)
        child = crowded.start(prepare=at_call(*place, lambda: fill(crowded.output, left)))
        assert_no_room(child, name)
        if newest is not None:
            assert_whole(crowded.output, newest)
        (crowded.output / "somebody-else's").unlink()
        crowded.to_the_end()
        assert_same_end(crowded.output, straight.output)

    with_mounts(work)


def test_a_read_only_folder_is_told_before_anything_is_loaded(straight: Run, crowded: Run) -> None:
    def work() -> None:
        crowded.output.mkdir()
        mount_read_only(crowded.output)
        child = crowded.start()
        assert child.wait() == 8
        assert "the file system is read-only" in child.said and "Traceback" not in child.said
        assert "train:" not in child.said, "the data was encoded first"
        assert list(crowded.output.iterdir()) == []

    with_mounts(work)


def fail_at(chosen: Callable[[int], Iterable[int]], harness: ModuleType, straight: Run, crowded: Run) -> None:
    """Runs that meet an error at the k-th operation on their folder, for the k that `chosen` takes of all."""
    counted, codes = crowded.config.with_name("counted"), Counter[int]()

    def count() -> None:
        seen = harness.Operations(crowded.output, -1, harness.die).install()
        train(crowded.data, str(crowded.model), crowded.config)
        counted.write_text(str(seen.seen))

    assert fork(count, None, crowded.log).wait() == 0
    shutil.rmtree(crowded.output)
    whole = int(counted.read_text())
    for at in chosen(whole):
        number = ERRORS[at % len(ERRORS)]
        failing = harness.Operations(crowded.output, at, harness.fail_with(number))
        child = crowded.start(prepare=failing.install)
        code = child.wait()
        assert code in (0, 8), f"{os.strerror(number)} at operation {at}: {code}\n{child.said[-3000:]}"
        assert "Traceback" not in child.said
        codes[code] += 1
        for checkpoint in checkpoints(crowded.output):
            verify(checkpoint)
        crowded.to_the_end()
        assert_same_end(crowded.output, straight.output)
        shutil.rmtree(crowded.output)
    print(f"{codes.total()} operations of {whole} failed in a real run; exit codes {dict(codes)}")
    assert codes[8] > codes.total() // 6


@NIGHTLY
def test_a_disk_that_fails_at_random_operations_of_a_run_harms_nothing_saved_before(
    harness: ModuleType, straight: Run, crowded: Run
) -> None:
    fail_at(lambda whole: random.Random(3).sample(range(1, whole), 12), harness, straight, crowded)


@pytest.mark.long
def test_a_disk_that_fails_at_any_operation_of_a_run_harms_nothing_saved_before(
    harness: ModuleType, straight: Run, crowded: Run
) -> None:
    fail_at(lambda whole: range(1, whole + 1), harness, straight, crowded)


@pytest.mark.parametrize(
    "name", by_tier(["mit Leerzeichen", "目录", "-rf", "a\nb", "'\"\\", "$(id)", "ü" * 120], ["-rf", "a\nb"])
)
def test_a_run_trains_and_goes_on_in_a_folder_of_any_name(
    name: str, small: Path, data: Path, configure: Configure
) -> None:
    output = data.parent / name
    brief: dict[str, Any] = {"output_dir": str(output), "max_steps": 2, "save_steps": 1}
    Run(data, small, configure(LORA, "odd", **brief), output).to_the_end(None)
    longer = Run(data, small, configure(LORA, "odd", **(brief | {"max_steps": 3})), output)
    assert one_line(f"going on from {output / 'checkpoint-2'}") in longer.to_the_end().said
    assert checkpoints(output)[0].name == "checkpoint-3"


def command(config: Path, data: Path, small: Path) -> Done:
    return finetune(["train", "--", str(data), str(small), str(config)], config.parent, {})


def test_the_command_line_takes_odd_names_and_prints_them(
    small: Path, data: Path, configure: Configure
) -> None:
    output = data.parent / "-x 'a\" \n目录"
    odd_data = data.rename(data.parent / "- d\n'")
    config = configure(LORA, output_dir=str(output), max_steps=1)
    done = command(config, odd_data, small)
    assert (done.code, done.out) == (0, f"{output}\n"), done.err[-3000:]
    assert checkpoints(output)[0].name == "checkpoint-1"


@pytest.mark.parametrize(
    ("output", "told", "code"),
    [
        ("file/below", "a file stands where a folder is needed", 8),
        ("/".join(["y" * 200] * 30), "the path is too long", 8),
        ("locked", "not a file, though we keep a lock of that name", 3),
    ],
    ids=["below a file", "a long path", "a folder as the lock"],
)
def test_an_output_dir_that_cannot_be_one_is_told_by_the_command_line(
    output: str, told: str, code: int, small: Path, data: Path, configure: Configure
) -> None:
    (data.parent / "file").write_text("kept")
    (data.parent / "locked" / ".lock").mkdir(parents=True)
    done = command(configure(LORA, output_dir=str(data.parent / output)), data, small)
    assert done.code == code, done.err
    assert done.err.startswith("error: ") and told in done.err and "Traceback" not in done.err
    assert (data.parent / "file").read_text() == "kept"
