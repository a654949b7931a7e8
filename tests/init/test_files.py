"""Which file is for what is read off the names, as people give them."""

from pathlib import Path

import pytest

from finetune.errors import DataError
from finetune.init.files import DataFiles, find_files


def folder_with(tmp_path: Path, names: str) -> Path:
    for name in names.split():
        (tmp_path / name).write_text("")
    return tmp_path


@pytest.mark.parametrize(
    ("names", "train", "val", "test"),
    [
        ("train.jsonl", "train.jsonl", None, None),
        ("chats.jsonl", "chats.jsonl", None, None),
        ("train.jsonl dev.jsonl", "train.jsonl", "dev.jsonl", None),
        ("train.jsonl val.jsonl test.jsonl", "train.jsonl", "val.jsonl", "test.jsonl"),
        ("train.json validation.json", "train.json", "validation.json", None),
        ("my-train.jsonl my-test.jsonl", "my-train.jsonl", None, "my-test.jsonl"),
        ("Train.parquet Valid.parquet", "Train.parquet", "Valid.parquet", None),
        ("chats.jsonl dev.jsonl", "chats.jsonl", "dev.jsonl", None),
        ("train_a.jsonl train_b.jsonl", "train_a.jsonl train_b.jsonl", None, None),
        ("train.jsonl.gz eval.jsonl", "train.jsonl.gz", "eval.jsonl", None),
        ("train.jsonl README.md notes", "train.jsonl", None, None),
        ("training.jsonl contest.jsonl", "training.jsonl", None, None),
    ],
)
def test_the_files_of_a_folder(
    tmp_path: Path, names: str, train: str, val: str | None, test: str | None
) -> None:
    found = find_files(str(folder_with(tmp_path, names)))
    assert (found.folder, found.train, found.val, found.test) == (tmp_path, tuple(train.split()), val, test)


@pytest.mark.parametrize(
    ("names", "file", "val", "test"),
    [
        ("train.jsonl dev.jsonl test.jsonl", "train.jsonl", "dev.jsonl", "test.jsonl"),
        ("a_train.jsonl a_dev.jsonl b_test.jsonl", "a_train.jsonl", "a_dev.jsonl", None),
        ("chats.jsonl dev.jsonl", "chats.jsonl", None, None),
        ("dev.jsonl test.jsonl", "dev.jsonl", None, None),
        ("train.jsonl dev.json", "train.jsonl", "dev.json", None),
    ],
)
def test_beside_a_file_only_those_named_alike_count(
    tmp_path: Path, names: str, file: str, val: str | None, test: str | None
) -> None:
    found = find_files(str(folder_with(tmp_path, names) / file))
    assert found == DataFiles(tmp_path, (file,), val, test)


def test_what_lies_there_and_is_not_used_is_told(tmp_path: Path) -> None:
    found = find_files(str(folder_with(tmp_path, "train.jsonl old.jsonl dev.jsonl val.jsonl")))
    assert (found.val, found.unused) == ("dev.jsonl", ("old.jsonl", "val.jsonl"))


def test_a_hub_id_stays_one() -> None:
    found = find_files("owner/corpus")
    assert found == DataFiles(Path(), ("owner/corpus",))
    assert found.path("owner/corpus") == Path("owner/corpus")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("a.jsonl b.jsonl", "which file is for training? None is called train; it holds a.jsonl, b.jsonl"),
        ("dev.jsonl", "which file is for training?"),
        ("notes.md", "no data file in this folder"),
    ],
)
def test_a_folder_that_does_not_say_is_refused(tmp_path: Path, names: str, said: str) -> None:
    with pytest.raises(DataError) as refused:
        find_files(str(folder_with(tmp_path, names)))
    assert said in str(refused.value)


def test_what_is_not_there_is_missed() -> None:
    with pytest.raises(DataError, match="nothing: no such file or folder, and no Hub id"):
        find_files("nothing")
