"""What `finetune check` says of images: each mistake at its place, how many there are, and what they take."""

import json
from pathlib import Path
from typing import Any

import PIL.Image
import pyarrow
import pyarrow.parquet
import pytest
from typer.testing import CliRunner

from finetune.chat.load import load_template
from finetune.chat.template import ChatTemplate
from finetune.cli import app
from finetune.config.schema import Config
from finetune.data.checking.check import CheckReport, all_of, check_data
from finetune.data.checking.fix import fix
from finetune.errors import DataError
from tests.seeing import draw, make_seeing


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_seeing(tmp_path_factory.mktemp("seeing") / "model")


@pytest.fixture(scope="module")
def seeing(model: Path) -> ChatTemplate:
    return load_template(model)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder with cat.png, 6 tokens, and dog.png, 2; and what is no image, half of one, and too slim."""
    folder = tmp_path / "data"
    draw(folder / "images" / "cat.png", 112, 84)
    draw(folder / "images" / "dog.png", 56, 28)
    draw(tmp_path / "outside.png")
    (folder / "page.jpg").write_text("<!DOCTYPE html>")
    (folder / "half.png").write_bytes((folder / "images" / "cat.png").read_bytes()[:2000])
    PIL.Image.new("L", (2000, 5)).save(folder / "slim.png")
    return folder


def row(*images: str, text: str = "What is this?") -> dict[str, Any]:
    parts = [{"type": "image", "image": image} for image in images]
    content = [*parts, {"type": "text", "text": text}]
    return {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "A cat."}]}


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def told(report: CheckReport) -> list[str]:
    """line:column code, of each mistake."""
    return [f"{one.line}:{one.column} {one.code}" for one in report.problems]


BAD = {
    "https://example.org/cat.png": "E310",
    "s3://bucket/cat.png": "E310",
    "../outside.png": "E311",
    "images/cow.png": "E312",
    "images": "E312",
    "page.jpg": "E313",
    "half.png": "E314",
}
COLUMN = 71
"""Of the path, which is the value of the first part's "image"."""


@pytest.mark.parametrize(("image", "code"), BAD.items())
def test_a_bad_image_is_told_at_its_path_with_and_without_a_model(
    folder: Path, seeing: ChatTemplate, image: str, code: str
) -> None:
    path = write(folder / "a.jsonl", row("images/cat.png"), row(image))
    assert path.read_text().splitlines()[1][COLUMN - 1 :].startswith(f'"{image}"')
    for template in (None, seeing):
        report = check_data(path, template)
        assert told(report) == [f"2:{COLUMN} {code}"]
        (place,) = report.as_dict()["findings"][code]["places"]
        assert (place["file"], place["line"], place["column"]) == (str(path), 2, COLUMN)
        assert report.counts["images"] == 1


def test_the_command_says_it_in_json_too_and_ends_with_2(folder: Path, model: Path) -> None:
    path = write(folder / "a.jsonl", row("images/cat.png"), row("half.png"))
    for words in ((), ("--model", str(model))):
        said = CliRunner().invoke(app, ["check", str(path), "--json", *words])
        (place,) = json.loads(said.stdout)["findings"]["E314"]["places"]
        assert (said.exit_code, place["line"], place["column"]) == (2, 2, COLUMN)
        assert "the PNG file is damaged or cut off" in place["reason"]


def test_an_image_in_the_record_s_own_list_is_told_where_the_list_has_it(folder: Path) -> None:
    record = {"images": ["images/cat.png", "images/cow.png"], **row(text="<image> or <image>?")}
    report = check_data(write(folder / "a.jsonl", record))
    assert told(report) == ["1:31 E312"]
    assert json.dumps(record)[30:].startswith('"images/cow.png"')


def test_what_the_model_does_not_take_is_told_with_a_model_only(folder: Path, seeing: ChatTemplate) -> None:
    path = write(folder / "a.jsonl", row("slim.png"))
    assert told(check_data(path)) == []
    assert told(check_data(path, seeing)) == [f"1:{COLUMN} E318"]


def test_a_model_of_text_is_told_to_see_nothing(folder: Path, glm4: ChatTemplate) -> None:
    report = check_data(write(folder / "a.jsonl", row("images/cat.png")), glm4)
    (problem,) = report.problems
    assert problem.code == "E301" and "images; the model sees none" in problem.reason


def test_the_report_counts_images_rows_with_some_and_the_tokens_they_take(
    folder: Path, seeing: ChatTemplate
) -> None:
    cats, both = row("images/cat.png", "images/cat.png"), row("images/cat.png", "images/dog.png")
    path = write(folder / "a.jsonl", cats, both, row(text="Hello?"))
    report = check_data(path, seeing)
    held = "conversations: 3, images: 4, assistant turns: 3, conversations with images: 2"
    assert f"  {held}" in report.lines()
    tokens = sum(length * count for length, count in report.files[0].lengths.items())
    assert report.as_dict()["image_tokens"] == {"median": 6, "most": 6, "share": (3 * 6 + 2) / tokens}
    assert f"images: {20 / tokens:.1%} of all tokens; one has 6 (median), 6 (most)" in report.lines()
    assert report.as_dict()["files"][0]["counts"]["conversations with images"] == 2
    assert "image_tokens" not in check_data(path).as_dict()


@pytest.mark.parametrize(
    ("record", "codes"),
    [
        (row(text="<image>What?"), ["W529"]),
        (row("images/cat.png", text="and <image>?"), ["W529"]),
        ({"images": ["images/cat.png"], **row(text="<image>What?")}, []),
        (row(text="<images> and < image >"), []),
    ],
)
def test_a_mark_for_a_picture_that_is_not_there_is_remarked_on(
    folder: Path, record: dict[str, Any], codes: list[str]
) -> None:
    report = check_data(write(folder / "a.jsonl", record))
    assert (report.ok, report.findings.codes()) == (True, codes)


# --- fix


def fixed(data: Path, output: Path, template: ChatTemplate | None = None, **settings: Any) -> list[str]:
    config = Config.model_validate({"data_config": {"train_file": str(data), **settings}})
    return fix(check_data(data, template, config), config, output)


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_fix_leaves_out_rows_with_bad_images_and_takes_the_others_along(
    folder: Path, tmp_path: Path, seeing: ChatTemplate
) -> None:
    path = write(
        folder / "a.jsonl", row("images/cat.png"), row("half.png"), row("slim.png"), row("./images/dog.png")
    )
    lines = fixed(path, tmp_path / "out", seeing)
    assert files(tmp_path / "out") == [
        "a.jsonl",
        "images/cat.png",
        "images/dog.png",
        "left-out/rejected.jsonl",
    ]
    rejected = (tmp_path / "out" / "left-out" / "rejected.jsonl").read_text().splitlines()
    assert [(json.loads(line)["line"], json.loads(line)["code"]) for line in rejected] == [
        (2, "E314"),
        (3, "E318"),
    ]
    assert "2 images, beside them" in lines
    again = check_data(tmp_path / "out" / "a.jsonl", seeing)
    assert (again.ok, again.counts["images"]) == (True, 2)


def test_images_that_lie_elsewhere_stay_there_and_are_told(folder: Path, tmp_path: Path) -> None:
    path = write(folder / "a.jsonl", row("../outside.png"), row(str(folder / "images" / "cat.png")))
    lines = fixed(path, tmp_path / "out", image_roots=[str(tmp_path)])
    assert files(tmp_path / "out") == ["a.jsonl"]
    assert (
        "2 images stay where they are (../outside.png …): name their folders in data_config.image_roots"
        in lines
    )


def test_two_images_of_one_path_are_refused_and_nothing_is_left(folder: Path, tmp_path: Path) -> None:
    for part, size in (("x", 28), ("y", 56)):
        draw(folder / part / "1.png", size, 28)
        write(folder / part / f"{part}.jsonl", row("1.png"))
    named = {"train_file": [{"file": "x/x.jsonl"}, {"file": "y/y.jsonl"}]}
    config = Config.model_validate({"data_config": named})
    with pytest.raises(DataError, match=r"another image 1\.png; fix the files one by one"):
        fix(check_data(folder, config=config), config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_bytes_of_an_image_in_a_table_are_written_as_an_address(folder: Path, tmp_path: Path) -> None:
    content = (folder / "images" / "cat.png").read_bytes()
    turns = [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "A cat."}]
    table = pyarrow.Table.from_pylist([{"messages": turns, "images": [{"bytes": content, "path": None}]}])
    pyarrow.parquet.write_table(table, folder / "a.parquet")
    fixed(folder / "a.parquet", tmp_path / "out")
    (written,) = (tmp_path / "out").glob("*.jsonl")
    report = check_data(written)
    assert (report.ok, report.counts["images"]) == (True, 1)
    assert all_of(written)
