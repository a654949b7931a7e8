"""Folders, archives and saved data sets: what is read of them for which split, and what is not."""

import io
import json
import zipfile

import pytest

from finetune.config.schema import Config, DataConfig
from finetune.data.checking.check import all_of, check_data, files_of
from finetune.data.dataset import load_conversations, load_examples
from finetune.data.reading.records import Malformed, read_records
from finetune.data.reading.splits import Sorted
from finetune.errors import DataError
from finetune.init.files import DataFiles, find_files


def line(text: str) -> str:
    return json.dumps({"prompt": text, "completion": "a"}) + "\n"


@pytest.mark.parametrize(
    ("names", "training", "validation", "stray"),
    [
        ("train.jsonl dev.jsonl test.jsonl", "train.jsonl", "dev.jsonl", ""),
        ("a.jsonl b.jsonl", "a.jsonl b.jsonl", "a.jsonl b.jsonl", ""),
        ("a.jsonl test.jsonl LICENSE.txt notes.txt", "a.jsonl", "a.jsonl", "LICENSE.txt notes.txt"),
        ("train.jsonl more.jsonl", "train.jsonl", "more.jsonl", "more.jsonl"),
        ("train.jsonl README.json dataset_info.json", "train.jsonl", None, "README.json dataset_info.json"),
        ("book.txt other.txt LICENSE.txt", "book.txt other.txt", "book.txt other.txt", "LICENSE.txt"),
        ("train.txt chapter.txt data.jsonl", "train.txt", "data.jsonl", "chapter.txt data.jsonl"),
        ("test.jsonl", None, None, ""),
    ],
)
def test_a_file_is_for_what_its_name_says(names, training, validation, stray):
    found = Sorted.of("in", names.split())
    for split, told in (("training", training), ("validation", validation)):
        if told is None:
            with pytest.raises(DataError, match=f"in: no file for {split} in it; it holds"):
                found.for_split(split)
        else:
            assert found.for_split(split) == tuple(told.split())
    assert set(found.stray) == set(stray.split())


@pytest.fixture
def folder(tmp_path):
    found = tmp_path / "in"
    found.mkdir()
    for name in ("train.jsonl", "dev.jsonlines", "test.jsonl", "more.jsonl"):
        (found / name).write_text(line(name), encoding="utf-8")
    (found / "LICENSE.txt").write_text("Free.", encoding="utf-8")
    return found


def questions(examples, glm4) -> list[str]:
    return [examples.origin(i).rsplit("/", 1)[1] for i in range(examples.conversations)]


def test_a_folder_means_the_same_to_training_and_to_the_check(folder, glm4):
    config = DataConfig(train_file=str(folder), val_file=str(folder), test_file=str(folder))
    read = {
        split: questions(
            load_examples(config, str(folder), folder.parent, glm4, max_length=99, split=split), glm4
        )
        for split in ("training", "validation", "test")
    }
    assert read == {"training": ["train.jsonl:1"], "validation": ["dev.jsonlines:1"], "test": ["test.jsonl:1"]}
    for settings in (all_of(folder), Config(data_config=config)):
        files = files_of(folder, settings)
        assert {split: [f"{path.name}:1"] for path, split in files.items()} == read
        report = check_data(folder, config=settings)
        assert sorted(one.source for one in report.findings.kept["W506"]) == [
            str(folder / "LICENSE.txt"),
            str(folder / "more.jsonl"),
        ]
        assert report.findings.errors == 0 and "W503" not in report.findings.counts
    (sample,) = load_conversations(config, str(folder), folder)
    assert sample.conversation.messages[0].content == "test.jsonl"


def test_training_tells_the_files_that_it_does_not_read(folder, glm4):
    config = DataConfig(train_file=str(folder))
    (account,) = load_examples(config, str(folder), folder.parent, glm4, max_length=99).files
    assert [remark.partition(": ")[0] for remark in account.remarks] == [
        f"{folder}/LICENSE.txt:1",
        f"{folder}/more.jsonl:1",
    ]
    assert account.ledger.rows == 1


def archive(path, files: dict[str, str]):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return path


def test_a_zip_file_is_read_as_a_folder_is_and_names_file_and_line(tmp_path):
    path = archive(
        tmp_path / "data.zip",
        {
            "in/train.jsonl": line("q") + "{\n",
            "in/dev.csv": "prompt,completion\nr,a\n",
            "in/image.png": "x",
            "__MACOSX/in/train.jsonl": "x",
            "in/.hidden.jsonl": "x",
        },
    )
    good, bad = read_records(path)
    assert (good.data["prompt"], good.source, good.line) == ("q", f"{path}/in/train.jsonl", 1)
    assert str(bad).startswith(f"{path}/in/train.jsonl:2:2: E105 ")
    assert [record.data["prompt"] for record in read_records(path, "validation")] == ["r"]


def test_a_zip_file_is_a_data_file(tmp_path, glm4):
    archive(tmp_path / "train.zip", {"rows.json": json.dumps([{"prompt": "q", "completion": "a"}])})
    examples = load_examples(DataConfig(train_file="train.zip"), "train.zip", tmp_path, glm4, max_length=99)
    assert examples.origin(0) == f"{tmp_path}/train.zip/rows.json:1"


def bomb() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as made, made.open("a.jsonl", "w") as file:
        for _ in range(80):
            file.write(b" " * (1 << 20))
    return packed.getvalue()


def encrypted() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as made:
        made.writestr("a.jsonl", line("q"))
    content = bytearray(packed.getvalue())
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(mark) + flags] |= 1
    return bytes(content)


def without_data() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as made:
        made.writestr("a.png", "x")
    return packed.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (bomb, "would unpack to 83,886,080, more than 200 times as many"),
        (encrypted, "a.jsonl: File 'a.jsonl' is encrypted"),
        (without_data, "no data file in it"),
        (lambda: b"PK\x03\x04 cut off", "no zip file, or a damaged one"),
    ],
)
def test_a_zip_file_that_cannot_be_read_is_told_why(tmp_path, content, reason):
    (tmp_path / "data.zip").write_bytes(content())
    (problem,) = read_records(tmp_path / "data.zip")
    assert isinstance(problem, Malformed) and problem.code == "E120" and reason in problem.reason


def test_a_damaged_file_in_a_zip_is_read_up_to_the_damage(tmp_path):
    path = archive(tmp_path / "data.zip", {"a.jsonl": "".join(line(f"q{i}") for i in range(2000))})
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 40] = bytes(40)
    path.write_bytes(content)
    problems = [record for record in read_records(path) if isinstance(record, Malformed)]
    assert problems[-1].code == "E114" and problems[-1].source == f"{path}/a.jsonl"


def test_what_datasets_saved_is_read_with_its_splits(tmp_path, glm4):
    datasets = pytest.importorskip("datasets")
    made = {
        name: datasets.Dataset.from_list([{"prompt": name, "completion": "a"}] * 2)
        for name in ("train", "test")
    }
    datasets.DatasetDict(made).save_to_disk(str(tmp_path / "saved"))
    assert [record.data["prompt"] for record in read_records(tmp_path / "saved")] == ["train"] * 2
    assert [record.data["prompt"] for record in read_records(tmp_path / "saved", "test")] == ["test"] * 2
    assert [record.line for record in read_records(tmp_path / "saved" / "test")] == [1, 2]
    assert find_files(str(tmp_path / "saved")) == DataFiles(tmp_path, ("saved",), None, "saved")
    report = check_data(tmp_path / "saved")
    assert [(file.split, file.rows) for file in report.files] == [("training", 2), ("test", 2)]
    examples = load_examples(DataConfig(train_file="saved"), "saved", tmp_path, glm4, max_length=99)
    assert examples.conversations == 2
    (arrow,) = (tmp_path / "saved" / "test").glob("*.arrow")
    assert len(list(read_records(arrow))) == 2


def test_an_arrow_file_that_is_none_is_told(tmp_path):
    (tmp_path / "data.arrow").write_bytes(b"<html>")
    (problem,) = read_records(tmp_path / "data.arrow")
    assert isinstance(problem, Malformed) and problem.code == "E115"
