"""No damage to a checkpoint is ever loaded: flips, cuts, swaps, losses, and manifests from elsewhere."""

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from finetune.errors import CheckpointError
from finetune.folder import verify
from finetune.train.checkpoint.resume import choose_resume


@pytest.fixture
def pair(harness: ModuleType, tmp_path: Path) -> tuple[Path, Path]:
    """Two checkpoints of one run."""
    training = harness.Training()
    return training.advance().save(tmp_path), training.advance().save(tmp_path)


def files_of(checkpoint: Path) -> list[Path]:
    return sorted(path for path in checkpoint.rglob("*") if path.is_file())


def flips(path: Path, chance: random.Random, count: int = 100) -> Iterator[bytes]:
    whole = path.read_bytes()
    for _ in range(count):
        position = chance.randrange(len(whole))
        flipped = whole[position] ^ (1 << chance.randrange(8))
        yield whole[:position] + bytes([flipped]) + whole[position + 1 :]


def cuts(path: Path, chance: random.Random) -> Iterator[bytes]:
    whole = path.read_bytes()
    yield b""
    yield whole[:-1]
    yield whole + b"\0"
    for _ in range(15):
        yield whole[: chance.randrange(len(whole))]
        start = chance.randrange(len(whole))
        lost = whole[:start] + bytes(len(whole) - start)  # what a file system may leave after a power cut
        if lost != whole:
            yield lost


def assert_refused(checkpoint: Path, what: str) -> None:
    try:
        verify(checkpoint)
    except CheckpointError:
        return
    pytest.fail(f"{what} went unnoticed")


def test_changed_bytes_are_always_noticed(pair: tuple[Path, Path]) -> None:
    chance, tried = random.Random(1), 0
    for path in files_of(pair[0]):
        whole = path.read_bytes()
        for damaged in (*flips(path, chance), *cuts(path, chance)):
            path.write_bytes(damaged)
            assert_refused(pair[0], f"damage to {path.name}")
            tried += 1
        path.write_bytes(whole)
    verify(pair[0])
    print(f"{tried} damaged checkpoints, all noticed")
    assert tried >= 600


def test_missing_and_swapped_files_are_always_noticed(pair: tuple[Path, Path]) -> None:
    first, second = pair
    for path in files_of(first):
        whole = path.read_bytes()
        path.unlink()
        assert_refused(first, f"missing {path.name}")
        for other in files_of(first) + files_of(second):
            if other != path and other.read_bytes() != whole:
                path.write_bytes(other.read_bytes())
                assert_refused(first, f"{other} as {path.name}")
        path.write_bytes(whole)
    verify(first)


def test_two_files_that_changed_places_are_noticed(pair: tuple[Path, Path]) -> None:
    listed = files_of(pair[0])
    for index, left in enumerate(listed):
        for right in listed[index + 1 :]:
            contents = left.read_bytes(), right.read_bytes()
            left.write_bytes(contents[1])
            right.write_bytes(contents[0])
            assert_refused(pair[0], f"{left.name} and {right.name} swapped")
            left.write_bytes(contents[0])
            right.write_bytes(contents[1])


def test_two_checkpoints_that_changed_names_are_noticed(pair: tuple[Path, Path]) -> None:
    first, second = pair
    spare = first.with_name("spare")
    first.rename(spare)
    second.rename(first)
    spare.rename(second)
    assert_refused(first, "another step's checkpoint")
    assert_refused(second, "another step's checkpoint")
    with pytest.raises(CheckpointError):
        choose_resume(first.parent, "yes")


def test_a_manifest_edited_by_hand_is_noticed(pair: tuple[Path, Path]) -> None:
    path = pair[0] / "manifest.json"
    manifest = json.loads(path.read_text())
    for change in ({"step": 2}, {"conversations_per_step": 16}, {"identity": {}}, {"resumable": False}):
        path.write_text(json.dumps(manifest | change, indent=1, ensure_ascii=False) + "\n")
        assert_refused(pair[0], f"{change} in the manifest")


def test_a_run_goes_on_from_the_last_checkpoint_before_the_damage(
    harness: ModuleType, pair: tuple[Path, Path]
) -> None:
    expected = harness.Training().advance(5).bits()
    damaged = pair[1] / "training_state.safetensors"
    for content in flips(damaged, random.Random(2), count=12):
        output = pair[0].parent
        copy = output.with_name("copy")
        shutil.copytree(output, copy)
        (copy / "checkpoint-2" / damaged.name).write_bytes(content)
        training = harness.Training().resume(copy)
        assert training.step == 1
        assert len(list(copy.glob("rejected-2-*"))) == 1
        shutil.rmtree(copy)
    assert training.advance(4).bits() == expected
