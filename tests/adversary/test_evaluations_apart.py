"""`finetune eval` overwrites nothing of another evaluation, and two at once keep apart."""

import fcntl
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from finetune.chat.messages import Conversation
from finetune.errors import FolderInUseError
from finetune.eval.command import evaluate_file
from finetune.eval.place import LOCK_FILE, place_for, subject_of
from finetune.infer.batch import as_openai
from finetune.train.checkpoint.lock import LOCK_FILE as RUN_LOCK
from finetune.train.checkpoint.lock import run_lock

NUL = rb'{"model": "m", "data": "\u0000"}'
FIRST = ("m/model", "a/test.jsonl", None)


def held(named: tuple[str, str, str | None], run: Path | None = None, output: Path | None = None) -> str:
    with place_for(subject_of(*named), output, run) as place:
        return str(place)


@pytest.fixture(autouse=True)
def below(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "other",
    [
        ("m/model", "b/test.jsonl", None),
        ("m/model", "a/test.json", None),
        ("n/model", "a/test.jsonl", None),
        ("m/model", "a/test.jsonl", "nf4"),
    ],
    ids=["file of the same name", "other ending", "model of the same name", "other quantization"],
)
def test_another_evaluation_gets_a_folder_of_its_own_and_keeps_it(
    other: tuple[str, str, str | None],
) -> None:
    assert held(FIRST) == "eval-model/test"
    beside = held(other)
    assert beside.startswith("eval-model/test-")
    assert (held(FIRST), held(other)) == ("eval-model/test", beside)


def test_a_checkpoint_of_a_run_does_not_overwrite_what_the_run_scored(tmp_path: Path) -> None:
    run = tmp_path / "run"
    places = {held((name, "test.jsonl", None), run) for name in ("run", "run/checkpoint-1", "run/checkpoint-2")}
    assert len(places) == 3
    assert str(run / "eval" / "test") in places


def test_a_path_that_is_spelt_otherwise_is_the_same_file(tmp_path: Path) -> None:
    Path("m/model").mkdir(parents=True)
    assert held(FIRST) == held((f"{tmp_path}/m/../m/model", f"{tmp_path}/a/test.jsonl", None))


@pytest.mark.parametrize("data", ["a/test.jsonl", "b/test.jsonl"])
def test_a_folder_of_an_earlier_version_belongs_to_what_its_scores_name(data: str) -> None:
    place = Path("eval-model/test")
    place.mkdir(parents=True)
    (place / "scores.json").write_text(json.dumps({"model": "m/model", "data": data}))
    assert (held(FIRST) == str(place)) is (data == "a/test.jsonl")


@pytest.mark.parametrize("content", [b"", b"no json", b"[1]", b'{"model": 3}', b"[" * 9000, NUL])
def test_damaged_notes_are_nobodys(content: bytes) -> None:
    place = Path("eval-model/test")
    place.mkdir(parents=True)
    (place / "scores.json").write_bytes(content)
    assert held(FIRST) == str(place)


@pytest.mark.parametrize("output", [None, Path("named")])
def test_two_at_once_do_not_write_into_one_folder(output: Path | None) -> None:
    with (
        place_for(subject_of(*FIRST), output, None) as place,
        pytest.raises(FolderInUseError, match=f"{place}: another process evaluates here"),
    ):
        held(FIRST, output=output)
    assert held(FIRST, output=output) == str(place)


def test_another_evaluation_at_the_same_time_goes_beside() -> None:
    with place_for(subject_of(*FIRST), None, None):
        assert held(("m/model", "b/test.jsonl", None)).startswith("eval-model/test-")


def test_the_command_keeps_both_files_results_and_holds_the_folder(
    taught: Path, known: Sequence[Conversation], tmp_path: Path
) -> None:
    for name, conversation in (("a", known[0]), ("b", known[1])):
        Path(name).mkdir()
        Path(name, "test.jsonl").write_text(json.dumps(as_openai(conversation)), encoding="utf-8")
        evaluate_file(str(taught), f"{name}/test.jsonl")
    found = sorted(tmp_path.rglob("scores.json"))
    assert [json.loads(path.read_text())["data"] for path in found] == ["a/test.jsonl", "b/test.jsonl"]
    assert len(list(tmp_path.rglob("predictions.jsonl"))) == 2
    with (tmp_path / "eval-model" / "test" / LOCK_FILE).open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(FolderInUseError, match="another process evaluates here"):
            evaluate_file(str(taught), "a/test.jsonl")
    shutil.rmtree(tmp_path / "eval-model")


@pytest.mark.parametrize("kind", ["link to a file", "link to nothing", "pipe", "folder"])
@pytest.mark.parametrize("command", ["eval", "train"])
def test_a_lock_that_a_stranger_made_a_link_leads_nowhere(command: str, kind: str, tmp_path: Path) -> None:
    treasure = tmp_path / "thesis.txt"
    if kind != "link to nothing":
        treasure.write_text("chapter 1")
    place = tmp_path / "run" / "eval" / "test" if command == "eval" else tmp_path / "run"
    place.mkdir(parents=True)
    lock = place / (LOCK_FILE if command == "eval" else RUN_LOCK)
    match kind:
        case "pipe":
            os.mkfifo(lock)
        case "folder":
            lock.mkdir()
        case _:
            lock.symlink_to(treasure)
    with pytest.raises(FolderInUseError, match=f"{lock}: not a file, though we keep a lock of that name"):
        if command == "eval":
            held(("run", "test.jsonl", None), tmp_path / "run")
        else:
            with run_lock(place):
                pass
    assert treasure.exists() is (kind != "link to nothing")
    assert not treasure.exists() or treasure.read_text() == "chapter 1"
