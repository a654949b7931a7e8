"""A save and a rotation killed, or refused by the disk, at every operation; runs killed at random instants."""

import errno
import json
import os
import random
import resource
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest

from finetune.folder import checkpoints, verify
from finetune.train.checkpoint.resume import choose_resume, make_way
from tests.tiers import NIGHTLY

ERRORS = (errno.ENOSPC, errno.EIO, errno.EROFS, errno.EACCES, errno.EDQUOT)


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def saved(harness: ModuleType, tmp_path: Path) -> Path:
    """A run with two checkpoints that may keep two: the next save removes the first."""
    training = harness.Training()
    for _ in range(2):
        training.advance().save(tmp_path / "saved")
    return tmp_path / "saved"


SaveAgain = Callable[[int, Callable[[str], None]], tuple[int, Path]]


@pytest.fixture
def save_again(harness: ModuleType, saved: Path) -> SaveAgain:
    """Do the third save in a child, in a copy of the folder, with `act` at the k-th operation."""

    def attempt(at: int, act: Callable[[str], None]) -> tuple[int, Path]:
        output = saved.with_name("output")
        shutil.rmtree(output, ignore_errors=True)
        shutil.copytree(saved, output)

        def work() -> None:
            training = harness.Training().resume(output).advance()
            harness.Operations(output, at, act).install()
            training.save(output)

        return harness.forked(work), output

    return attempt


@pytest.fixture
def trace(harness: ModuleType, saved: Path) -> list[tuple[str, Path]]:
    """Every operation of the third save, in order, in a folder `traced` beside the other."""
    output = saved.with_name("traced")
    shutil.copytree(saved, output)
    told = saved.with_name("trace.json")

    def work() -> None:
        training = harness.Training().resume(output).advance()
        operations = harness.Operations(output, -1, harness.die).install()
        training.save(output)
        told.write_text(json.dumps(operations.trace))

    assert harness.forked(work) == 0
    return [(name, Path(path)) for name, path in json.loads(told.read_text())]


def assert_nothing_is_harmed(harness: ModuleType, saved: Path, output: Path) -> None:
    """The checkpoint before the save is as it was, all verify, and the run goes on to the same end."""
    assert content(output / "checkpoint-2") == content(saved / "checkpoint-2")
    for checkpoint in checkpoints(output):
        verify(checkpoint)
    assert checkpoints(output)[0].name in ("checkpoint-2", "checkpoint-3")
    training = harness.Training().resume(output)
    assert not list(output.glob("tmp-*")) and not list(output.glob("rejected-*"))
    training.advance(4 - training.step).save(output)
    assert [checkpoint.name for checkpoint in checkpoints(output)][:1] == ["checkpoint-4"]
    assert training.bits() == harness.Training().advance(4).bits()


def test_a_kill_at_any_operation_of_a_save_leaves_a_whole_checkpoint(
    harness: ModuleType, saved: Path, save_again: SaveAgain, trace: list[tuple[str, Path]]
) -> None:
    for at in range(1, len(trace) + 1):
        code, output = save_again(at, harness.die)
        assert code == harness.KILLED
        assert_nothing_is_harmed(harness, saved, output)
    assert len(trace) > 40, "a save and a rotation are more operations than that"
    print(f"killed at each of {len(trace)} operations")


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=NIGHTLY)])
def test_a_disk_that_fails_at_any_operation_is_said_and_harms_nothing(
    every: int, harness: ModuleType, saved: Path, save_again: SaveAgain, trace: list[tuple[str, Path]]
) -> None:
    refused = 0
    for at in range(1, len(trace) + 1, every):
        number = ERRORS[at % len(ERRORS)]
        code, output = save_again(at, harness.fail_with(number))
        assert code in (0, 8), f"{os.strerror(number)} at operation {at} ended with {code}"
        assert code == 8 or (output / "checkpoint-3").exists()
        assert_nothing_is_harmed(harness, saved, output)
        refused += code == 8
    assert refused > 25 // every, "the others fail after the commit, or while old checkpoints are looked at"
    print(f"failed at every {every}. of {len(trace)} operations, {refused} of them ended the save")


@pytest.mark.parametrize("limit", [0, 1, 100, 500, 1000, 2000, 4000, 100_000])
def test_a_file_that_may_not_grow_is_said_and_harms_nothing(
    harness: ModuleType, saved: Path, capfd: pytest.CaptureFixture[str], limit: int
) -> None:
    training = harness.Training().resume(saved).advance()
    output = saved.with_name("output")
    shutil.copytree(saved, output)

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            training.save(output)
        finally:  # the message goes to a file here
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    code = harness.forked(work)
    assert code == (0 if limit == 100_000 else 8)
    if code:
        assert not list(output.glob("tmp-*"))
        said = capfd.readouterr().err
        assert "ulimit -f" in said and "bytes) needed" in said and "bytes) free" in said
    assert_nothing_is_harmed(harness, saved, output)


def test_everything_reaches_the_disk_before_its_name_is_published(
    trace: list[tuple[str, Path]],
) -> None:
    publish = next(
        i for i, (name, path) in enumerate(trace) if name == "os.rename" and path.name == "checkpoint-3"
    )
    temporary = trace[publish][1]
    output = temporary.parent.parent
    synced = [path.relative_to(temporary).as_posix() for name, path in trace[:publish] if name == "fsync"]
    assert set(synced) == {*content(output / "checkpoint-3"), "sub", "."}
    assert synced[-2:] == ["manifest.json", "."], "the manifest last, then the folder that names it all"
    for name in content(output / "checkpoint-3"):
        of_file = [what for what, path in trace[:publish] if path == temporary / name]
        assert of_file[-1] == "fsync", f"{name} was touched after it was brought to the disk: {of_file}"
    assert trace[publish + 1 : publish + 3] == [("open", output), ("fsync", output)]
    assert [path.name for name, path in trace[publish + 3 :] if name == "os.rename"] == ["checkpoint-1"]


def train_to_the_end(harness: ModuleType, output: Path, die_at: int = -1) -> None:
    """A run of 8 steps with a checkpoint after each, from wherever it stands."""
    harness.Operations(output, die_at, harness.die).install()
    training = harness.Training().resume(output)
    while training.step < 8:
        training.advance().save(output)


def kill_at_random(harness: ModuleType, folder: Path, runs: int) -> None:
    """Three kills of each run at a random operation, one by kill -9 at a random instant; then to the end."""
    chance, kills = random.Random(0), 0
    expected = harness.Training().advance(8).bits()
    for number in range(runs):
        output = folder / str(number)
        codes = [
            harness.forked(partial(train_to_the_end, harness, output, chance.randrange(1, 75)))
            for _ in range(3)
        ]
        assert codes == [harness.KILLED] * 3, "a whole run is more than 3 × 75 operations"
        codes.append(harness.forked(partial(train_to_the_end, harness, output), chance.uniform(0, 0.1)))
        kills += len(codes) - codes.count(0)
        assert codes[-1] in (0, -9)
        assert harness.forked(partial(train_to_the_end, harness, output)) == 0
        assert harness.Training().resume(output).bits() == expected
        shutil.rmtree(output)
    print(f"{runs} runs, {kills} kills, every end byte-equal")


@pytest.mark.parametrize(
    "runs", [4, pytest.param(20, marks=NIGHTLY), pytest.param(1000, marks=pytest.mark.long)]
)
def test_a_run_killed_at_random_instants_ends_as_if_nothing_had_happened(
    runs: int, harness: ModuleType, tmp_path: Path
) -> None:
    kill_at_random(harness, tmp_path, runs)


@pytest.mark.parametrize("name", ["mit Leerzeichen", "目录", "-n", "a\nb", "ü" * 100, "$(id)", "'\"\\"])
def test_odd_folder_names_are_only_names(harness: ModuleType, tmp_path: Path, name: str) -> None:
    training = harness.Training()
    for _ in range(3):
        training.advance().save(tmp_path / name)
    assert choose_resume(tmp_path / name, "yes") == tmp_path / name / "checkpoint-3"
    make_way(tmp_path / name, None)
    assert checkpoints(tmp_path / name) == []


def test_a_path_too_long_for_the_system_is_said(harness: ModuleType, tmp_path: Path) -> None:
    training = harness.Training().advance()
    assert harness.forked(lambda: training.save(tmp_path / ("x" * 300))) == 8


def test_a_folder_that_cannot_be_made_is_said(harness: ModuleType, tmp_path: Path) -> None:
    training = harness.Training().advance()
    (tmp_path / "file").write_text("")
    assert harness.forked(lambda: training.save(tmp_path / "file" / "output")) == 8
