"""A chat about pictures: shown with the next line, seen ever after, and what cannot be shown is said."""

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForImageTextToText, GlmForCausalLM
from typer.testing import CliRunner

from finetune.chat.load import load_template
from finetune.chat.messages import Image, Message, Tool, ToolCall
from finetune.cli import app
from finetune.data.encode import Prompt
from finetune.errors import DataError, ModelError
from finetune.infer.engine import Sampling
from finetune.infer.hf import HFEngine
from finetune.serve.terminal import Speaker, _turn, chat
from tests.seeing import QWEN_TEMPLATE, draw, make_seeing

SHORT = Sampling(max_new_tokens=3)
# With tools, in the words of Hermes; the rest is the family's own.
TOOLS = (
    "{%- if tools %}<|im_start|>system\n{% for t in tools %}{{ t | tojson }}{% endfor %}<|im_end|>\n{% endif %}"
)
CALLS = """{%- for c in m.tool_calls or [] %}<tool_call>
{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}
</tool_call>{% endfor %}"""
END_OF_TURN = "{{- '<|im_end|>\n' }}{%- endfor %}"
WITH_TOOLS = TOOLS + QWEN_TEMPLATE.replace(END_OF_TURN, CALLS + END_OF_TURN)


class Asked(HFEngine):
    """Remembers what it was asked."""

    def stream(self, prompt, sampling, number):
        self.asked = [*getattr(self, "asked", []), prompt]
        return super().stream(prompt, sampling, number)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_seeing(tmp_path_factory.mktemp("seeing") / "model", "qwen3_vl")


@pytest.fixture
def engine(folder: Path) -> Asked:
    return Asked(AutoModelForImageTextToText.from_pretrained(folder), load_template(folder))


@pytest.fixture
def picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return draw(tmp_path / "my cat.png", 84, 56)


def says(lines: Iterable[str]) -> Callable[[str], str | None]:
    rest = iter(lines)
    return lambda prompt: next(rest, None)


def names(prompts: Iterable[Prompt]) -> list[list[str]]:
    return [[Path(picture.path).name for picture in prompt.pictures] for prompt in prompts]


def test_a_picture_is_shown_with_the_next_line_and_seen_ever_after(
    engine: Asked, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = draw(tmp_path / "dog.png", 56, 84, 1)
    lines = ["Hi", "/image my cat.png", "What is it?", "And its colour?", f"/image {other}", "And this?"]
    chat(engine, SHORT, read=says(lines))
    cat, dog = "my cat.png", "dog.png"
    assert names(engine.asked) == [[], [cat], [cat], [cat, dog]]
    assert "[my cat.png: 84 x 56 pixels, shown with the next line]" in capsys.readouterr().err


@pytest.mark.parametrize("pasted", ['"my cat.png"', "'my cat.png'", r"my\ cat.png"])
def test_a_path_may_come_as_a_terminal_pastes_it(pasted: str, engine: Asked, picture: Path) -> None:
    chat(engine, SHORT, read=says([f"/Image {pasted}", "What is it?"]))
    assert names(engine.asked) == [["my cat.png"]]


def test_a_file_with_quotes_in_its_name_is_that_file(engine: Asked, picture: Path, tmp_path: Path) -> None:
    draw(tmp_path / "dog.png").rename(tmp_path / "'my cat.png'")
    chat(engine, SHORT, read=says(["/image 'my cat.png'", "What is it?"]))
    assert names(engine.asked) == [["'my cat.png'"]]


def test_several_pictures_go_with_one_line_and_clear_puts_them_away(engine: Asked, picture: Path) -> None:
    chat(
        engine, SHORT, read=says([*["/image my cat.png"] * 2, "Both?", "/image my cat.png", "/clear", "None?"])
    )
    assert names(engine.asked) == [["my cat.png"] * 2, []]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("gone.png", "gone.png: no such file"),
        ("", "the path of an image is empty"),
        ("notes.txt", "notes.txt: no image that can be read; it seems to be text"),
        (".", "a folder; name an image file in it"),
        ("https://host/cat.png", "https://host/cat.png: an address"),
        ("thread.png", "thread.png: 600 x 2 pixels: one side is more than 200 times the other"),
    ],
)
def test_what_is_no_picture_is_said_and_the_next_line_goes_without(
    path: str, said: str, engine: Asked, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("to do: nothing at all")
    draw(tmp_path / "thread.png", 600, 2)
    chat(engine, SHORT, read=says([f"/image {path}", "Well?"]))
    assert said in capsys.readouterr().err
    assert names(engine.asked) == [[]]
    with pytest.raises(DataError, match=said.replace("?", r"\?")):
        chat(engine, SHORT, images=[path], read=says(["Well?"]))
    assert len(engine.asked) == 1


def test_a_model_of_text_says_that_it_sees_none(
    taught: Path, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blind = HFEngine(GlmForCausalLM.from_pretrained(taught), load_template(taught))
    chat(blind, Sampling(max_new_tokens=60), read=says(["/image my cat.png", "Where is the river?"]))
    captured = capsys.readouterr()
    assert captured.err.splitlines()[0] == "error: this model sees no pictures"
    assert captured.out == "Behind the old mill.\n"
    with pytest.raises(ModelError, match="sees no pictures"):
        chat(blind, SHORT, images=["my cat.png"], read=says(["Hi"]))


def test_base_and_tuned_both_see_the_picture(
    folder: Path, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], init_lora_weights=False)
    model = get_peft_model(AutoModelForImageTextToText.from_pretrained(folder), config)
    engine = Asked(model, load_template(folder))
    chat(engine, SHORT, vs_base=True, images=["my cat.png"], read=says(["What is it?", "Sure?"]))
    assert names(engine.asked) == [["my cat.png"]] * 4
    assert capsys.readouterr().out.count("tuned> ") == 2


def test_a_tool_may_answer_with_a_picture(folder: Path, picture: Path, tmp_path: Path) -> None:
    (tmp_path / "tools.jinja").write_text(WITH_TOOLS)
    template = load_template(folder, chat_template=tmp_path / "tools.jinja")
    engine = Asked(AutoModelForImageTextToText.from_pretrained(folder), template)
    call = Message("assistant", tool_calls=(ToolCall("take_photo", {"of": "the cat"}),))
    speaker = Speaker("", engine.without_adapter, [Message("user", "Show me the cat."), call])
    result = Message("user", "taken", images=(Image(str(picture)),))
    _turn(engine, speaker, result, SHORT, [Tool("take_photo", "Takes a photo", {"type": "object"})])
    [prompt] = engine.asked
    shown = "<|im_start|>tool\n<|vision_start|>" + "<|image_pad|>" * 6 + "<|vision_end|>taken<|im_end|>"
    assert shown in template.tokenizer.decode(prompt.ids)
    assert names([prompt]) == [["my cat.png"]]


def test_the_command_shows_a_picture_with_a_message(folder: Path, picture: Path) -> None:
    said = []
    for seed in (0, 1):
        draw(picture, 84, 56, seed)
        words = [
            "chat",
            str(folder),
            "--image",
            str(picture),
            "--message",
            "What is it?",
            "--max-new-tokens",
            "9",
        ]
        said.append(CliRunner().invoke(app, words).stdout)
    assert said[0] and said[0] != said[1]
    words[3] = "gone.png"
    failed = CliRunner().invoke(app, words)
    assert isinstance(failed.exception, DataError)
    assert not failed.stdout
