"""`finetune init` writes a file that loads without a word and trains as it stands; it never overwrites one."""

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from finetune.chat.load import load_template
from finetune.config.load import load_config
from finetune.errors import DataError, FinetuneError, FolderInUseError, StorageError
from finetune.init.guess import Method
from finetune.init.story import init
from finetune.shipped import template_file
from finetune.train.run import train
from tests.chat.conftest import QWEN, train_tokenizer
from tests.config.conftest import schema_mistakes
from tests.seeing import make_seeing

EXAMPLES = Path(__file__).parents[2] / "data_examples"
Command = Callable[..., None]


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny vision checkpoint."""
    return make_seeing(tmp_path_factory.mktemp("seeing") / "model")


NAMES = {path.name for path in EXAMPLES.glob("*.*") if path.suffix != ".md"}


@pytest.mark.parametrize("name", sorted(NAMES - {"images.jsonl"}))
def test_every_format_gives_a_file_that_loads_without_a_word(name: str, small: Path, tmp_path: Path) -> None:
    output = tmp_path / "c.yaml"
    init(str(EXAMPLES / name), str(small), output, "lora")
    config = load_config(output, data_dir=EXAMPLES)
    assert config.notices == ()
    assert config.data_config.train_file == name
    assert config.data_config.format != "auto"
    assert schema_mistakes(output) == []


@pytest.mark.parametrize(("method", "said"), [("lora", "no adapter in"), ("full", "the model keeps its eyes")])
def test_of_data_with_images_a_model_that_sees_learns_to_speak_not_to_see(
    method: Method, said: str, seeing: Path, tmp_path: Path
) -> None:
    output = tmp_path / "c.yaml"
    init(str(EXAMPLES / "images.jsonl"), str(seeing), output, method)
    config = load_config(output, data_dir=EXAMPLES)
    assert (config.notices, config.model.freeze) == ((), ("vision",))
    (line,) = [line for line in output.read_text().splitlines() if "freeze" in line]
    assert line.startswith("  freeze: [vision]") and f"# 6 of 7 records have images; {said}" in line
    assert schema_mistakes(output) == []


def test_of_data_without_images_nothing_is_said_of_them(seeing: Path, tmp_path: Path) -> None:
    init(str(EXAMPLES / "alpaca.json"), str(seeing), tmp_path / "c.yaml", "lora")
    assert "freeze" not in (tmp_path / "c.yaml").read_text()


def test_images_cannot_be_trained_with_a_model_of_text(small: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"6 of 7 records have images, which cannot be trained with .*/model: "):
        init(str(EXAMPLES / "images.jsonl"), str(small), tmp_path / "c.yaml", "lora")
    assert not (tmp_path / "c.yaml").exists()


@pytest.mark.parametrize("method", ["lora", "p-tuning", "full"])
def test_what_it_writes_trains_unchanged(method: Method, small: Path, data: Path, tmp_path: Path) -> None:
    output = tmp_path / "c.yaml"
    *_, command = init(str(data), str(small), output, method)
    assert command == shlex.join(["finetune", "train", str(data), str(small), str(output)])
    overrides = [f"training_args.output_dir={tmp_path / 'run'}", "training_args.num_train_epochs=1"]
    run = train(data, str(small), output, "no", overrides)
    assert (run / "report.html").is_file()


def test_a_base_without_a_chat_template_gets_the_one_that_is_named(
    small: Path, data: Path, tmp_path: Path
) -> None:
    bare = shutil.copytree(small, tmp_path / "bare")
    template = (bare / "chat_template.jinja").rename(tmp_path / "mine.jinja")
    init(str(data), str(bare), tmp_path / "c.yaml", "lora", template)
    assert load_config(tmp_path / "c.yaml", data_dir=data).model.chat_template == str(template)
    init(str(data), str(bare), tmp_path / "d.yaml", "lora", Path("chatml"))
    assert "  chat_template: chatml " in (tmp_path / "d.yaml").read_text()


def test_a_base_without_a_chat_template_gets_one_of_ours_and_trains_with_it(
    small: Path, data: Path, tmp_path: Path
) -> None:
    bare = shutil.copytree(small, tmp_path / "bare")
    (bare / "chat_template.jinja").unlink()
    init(str(data), str(bare), tmp_path / "c.yaml", "full")
    (line,) = [line for line in (tmp_path / "c.yaml").read_text().splitlines() if "chat_template" in line]
    assert line.split("  # ") == [
        f"{'  chat_template: glm4':34}",
        "the checkpoint has none; the tokenizer has <|observation|>",
    ]
    overrides = [f"training_args.output_dir={tmp_path / 'run'}", "training_args.max_steps=1"]
    run = train(data, str(bare), tmp_path / "c.yaml", "no", overrides)
    saved = load_template(run / "checkpoint-1")
    assert saved.source == template_file("glm4").read_text(encoding="utf-8")
    generation = json.loads((run / "checkpoint-1" / "generation_config.json").read_text())
    assert set(saved.stop_ids) <= set(generation["eos_token_id"])


TOOLS = {
    "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
}


def test_data_with_tools_gets_a_template_that_prints_them(small: Path, tmp_path: Path) -> None:
    """A checkpoint whose template prints none, as many small ChatML models have it."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=train_tokenizer("bytes", QWEN), eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = template_file("chatml").read_text(encoding="utf-8")
    tokenizer.save_pretrained(tmp_path / "model")
    shutil.copy(small / "config.json", tmp_path / "model")
    data = write(tmp_path / "train.jsonl", TOOLS, TOOLS)
    init(str(data), str(tmp_path / "model"), tmp_path / "c.yaml", "lora")
    (line,) = [line for line in (tmp_path / "c.yaml").read_text().splitlines() if "chat_template" in line]
    assert "chat_template: chatml-tools" in line and "prints no tools, and the data has some" in line
    plain = write(tmp_path / "plain.jsonl", {"messages": TOOLS["messages"]})
    init(str(plain), str(tmp_path / "model"), tmp_path / "d.yaml", "lora")
    assert "chat_template" not in (tmp_path / "d.yaml").read_text()


def test_every_line_says_why_and_there_are_about_thirty(small: Path, data: Path, tmp_path: Path) -> None:
    output = tmp_path / "c.yaml"
    (data / "test.jsonl").write_bytes((data / "dev.jsonl").read_bytes())
    init(str(data), str(small), output, "lora")
    lines = output.read_text(encoding="utf-8").splitlines()
    assert 25 <= len(lines) <= 36
    assert lines[0].startswith("# yaml-language-server: $schema=file://")
    assert lines[0].endswith("/configs/schema.json")
    assert lines[1] == f"# finetune train {data} {small} {output}"
    values = [line for line in lines if ": " in line and not line.startswith("#")]
    assert len(values) > 20
    assert [line for line in values if "  # " not in line] == []


def test_the_files_of_a_folder_are_told_apart(small: Path, data: Path, tmp_path: Path) -> None:
    (data / "old.jsonl").write_bytes((data / "dev.jsonl").read_bytes())
    said = init(str(data), str(small), tmp_path / "c.yaml", "lora")
    assert said[0].endswith(
        "from train.jsonl (12 records), dev.jsonl (4 records); every value has its reason beside it"
    )
    assert said[1] == "not used: old.jsonl"
    config = load_config(tmp_path / "c.yaml", data_dir=data)
    assert (config.data_config.val_file, config.data_config.test_file) == ("dev.jsonl", None)
    assert config.training_args.saving.load_best_model_at_end


def test_two_times_the_same_is_the_same_file(small: Path, data: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "1.yaml", tmp_path / "2.yaml"
    for output in (first, second):
        init(str(data), str(small), output, "lora")
    assert first.read_text().replace("1.yaml", "2.yaml") == second.read_text()


def test_a_file_that_is_there_is_left_alone(small: Path, data: Path, tmp_path: Path) -> None:
    output = tmp_path / "c.yaml"
    output.write_text("mine")
    with pytest.raises(FolderInUseError, match="exists already; give another name with --output, or remove it"):
        init(str(data), str(small), output, "lora")
    assert output.read_text() == "mine"


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return path


GOOD = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
ASKED = {"messages": [{"role": "user", "content": "a"}]}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            (GOOD, {"messages": []}, "xx"),
            "t.jsonl:2:14: .*t.jsonl:3:1: .*2 of 3 records cannot be used: mend them",
        ),
        ((ASKED,), "t.jsonl: nothing to learn: no record has an answer"),
    ],
)
def test_from_broken_records_nothing_is_guessed(
    rows: tuple[object, ...], said: str, small: Path, tmp_path: Path
) -> None:
    file = write(tmp_path / "t.jsonl", *rows)
    with pytest.raises(DataError, match=f"(?s){said}") as refused:
        init(str(file), str(small), tmp_path / "c.yaml", "lora")
    assert refused.value.exit_code == 2
    assert not (tmp_path / "c.yaml").exists()


def test_a_mistake_in_the_validation_file_counts_too(small: Path, data: Path, tmp_path: Path) -> None:
    write(data / "dev.jsonl", "{")
    with pytest.raises(DataError, match=r"dev\.jsonl:1:"):
        init(str(data), str(small), tmp_path / "c.yaml", "lora")


@pytest.mark.parametrize(
    ("rows", "model", "output", "kind"),
    [((), "small", "c.yaml", DataError), ((GOOD,), "none", "c.yaml", FinetuneError)],
)
def test_an_empty_file_or_a_missing_model_is_told(
    rows: tuple[object, ...], model: str, output: str, kind: type[FinetuneError], small: Path, tmp_path: Path
) -> None:
    file = write(tmp_path / "t.jsonl", *rows)
    with pytest.raises(kind) as refused:
        init(str(file), str(small) if model == "small" else str(tmp_path / model), tmp_path / output, "lora")
    assert refused.value.exit_code == 2
    assert not (tmp_path / output).exists()


def test_a_folder_that_is_not_there_is_told_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="nowhere: no such folder"):
        init("no data", "no model", tmp_path / "nowhere" / "c.yaml", "lora")


def test_files_of_different_formats_leave_the_format_open(small: Path, tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", GOOD)
    write(tmp_path / "dev.jsonl", {"instruction": "a", "output": "b"})
    init(str(tmp_path), str(small), tmp_path / "c.yaml", "lora")
    assert load_config(tmp_path / "c.yaml", data_dir=tmp_path).data_config.format == "auto"
    assert "# the files differ: messages, alpaca" in (tmp_path / "c.yaml").read_text()
