"""`finetune eval` and `finetune generate` on conversations with pictures."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText

from finetune.chat.load import load_template
from finetune.config.schema import DataConfig
from finetune.data.dataset import load_conversations
from finetune.errors import DataError, FolderInUseError, TemplateError
from finetune.eval.command import evaluate_file
from finetune.infer import batch
from finetune.infer.command import generate_answers
from finetune.infer.engine import Sampling
from tests.seeing import draw, make_seeing

SHORT = Sampling(max_new_tokens=6)
QUESTION = "What is it?"
ANSWER = {"role": "assistant", "content": "A cat."}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With weights so large that pictures matter."""
    folder = make_seeing(tmp_path_factory.mktemp("seeing") / "model", "qwen2_5_vl")
    loaded = AutoModelForImageTextToText.from_pretrained(folder)
    for parameter in loaded.parameters():
        parameter.data *= 12 if parameter.dim() > 1 else 1
    loaded.save_pretrained(folder)
    return folder


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with pictures/cat.png and pictures/dog.png, below where commands are run."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("cat", "dog")):
        draw(tmp_path / "data" / "pictures" / f"{name}.png", 84, 56, number)
    return tmp_path / "data"


def write(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return str(path)


def turns(content: Any, **beside: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content, **beside}, ANSWER]}


def openai(url: str) -> dict[str, Any]:
    return turns([{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": QUESTION}])


CAT = "pictures/cat.png"
FORMATS: dict[str, dict[str, Any]] = {
    "GLM-4": turns(QUESTION, image=CAT),
    "OpenAI": openai(CAT),
    "Hugging Face": {**turns([{"type": "image"}, {"type": "text", "text": QUESTION}]), "images": [CAT]},
    "LLaVA": {
        "conversations": [
            {"from": "human", "value": f"<image>{QUESTION}"},
            {"from": "gpt", "value": "A cat."},
        ],
        "image": CAT,
    },
    "alpaca": {"instruction": f"<image>{QUESTION}", "input": "", "output": "A cat.", "images": [CAT]},
    "prompt-completion": {
        "prompt": [openai(CAT)["messages"][0]],
        "completion": [ANSWER],
    },
}


def generate(model: Path, source: str, output: Path) -> int:
    options: dict[str, Any] = {"batch_size": 2, "quantization": None, "trust_remote_code": False}
    return generate_answers(str(model), source, output, sampling=SHORT, **options)


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_format_gives_the_same_answer_to_the_same_picture(model: Path, data: Path) -> None:
    answered = []
    for number, row in enumerate(FORMATS.values()):
        output = data / f"out{number}.jsonl"
        assert generate(model, write(data / f"in{number}.jsonl", row), output) == 1
        answered.append(rows_of(output)[0]["messages"])
    path = str(data / CAT)
    asked = [{"type": "image_url", "image_url": {"url": path}}, {"type": "text", "text": QUESTION}]
    assert answered[0][0] == {"role": "user", "content": asked}
    assert answered == [answered[0]] * len(FORMATS)


def test_the_answers_depend_on_the_pictures(model: Path, data: Path) -> None:
    source = write(data / "in.jsonl", openai(CAT), openai("pictures/dog.png"), turns(QUESTION))
    generate(model, source, data / "out.jsonl")
    cat, dog, nothing = (row["messages"][-1]["content"] for row in rows_of(data / "out.jsonl"))
    assert len({cat, dog, nothing}) == 3


def test_the_output_is_an_input_with_the_same_pictures_in_the_same_places(model: Path, data: Path) -> None:
    content = base64.b64encode((data / "pictures/dog.png").read_bytes()).decode()
    parts = [
        {"type": "text", "text": "Is "},
        {"type": "image_url", "image_url": {"url": CAT}},
        {"type": "text", "text": " like "},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{content}"}},
    ]
    source = write(data / "in.jsonl", turns(parts))
    generate(model, source, data.parent / "out.jsonl")
    again, first = (
        load_conversations(DataConfig(train_file=name), name, Path())[0].conversation
        for name in ("out.jsonl", source)
    )
    assert again.messages[0] == first.messages[0]
    assert [image.offset for image in again.images] == [3, 9]
    assert generate(model, "out.jsonl", data / "again.jsonl") == 1
    assert rows_of(data / "again.jsonl")[0]["messages"] == rows_of(data.parent / "out.jsonl")[0]["messages"]


def test_stopped_work_goes_on_with_the_same_pictures_and_not_with_others(
    model: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "BATCHES_AT_ONCE", 1)
    names = [CAT, "pictures/dog.png", CAT, "pictures/dog.png", CAT]
    source, output = write(data / "in.jsonl", *map(openai, names)), data / "out.jsonl"
    assert generate(model, source, output) == 5
    whole = output.read_bytes()
    output.write_bytes(whole[: len(whole) // 2])
    assert generate(model, source, output) == 3
    assert output.read_bytes() == whole
    write(data / "in.jsonl", *map(openai, reversed(["pictures/dog.png", *names[1:]])))
    with pytest.raises(FolderInUseError, match=r"out\.jsonl:5: answers another conversation"):
        generate(model, source, output)


BAD = {
    "gone": ("pictures/gone.png", r"in\.jsonl:2:87: E312 .*gone\.png: no such file"),
    "no image": ("notes.png", r"in\.jsonl:2:87: E313 .*notes\.png: no image that can be read"),
    "elsewhere": ("/etc/hostname", r"in\.jsonl:2:87: E311 /etc/hostname: lies outside"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_picture_that_cannot_be_used_is_told_with_its_line(kind: str, model: Path, data: Path) -> None:
    (data / "notes.png").write_text("to do: nothing")
    path, told = BAD[kind]
    source = write(data / "in.jsonl", openai(CAT), openai(path))
    for ask in (lambda: generate(model, source, data / "out.jsonl"), lambda: evaluate_file(str(model), source)):
        with pytest.raises(DataError, match=told):
            ask()
    assert not (data / "out.jsonl").exists()


def test_an_evaluation_names_the_pictures_of_each_prediction(model: Path, data: Path, tmp_path: Path) -> None:
    again = {"role": "user", "content": "Sure?"}
    row = openai(CAT)
    row["messages"] += [again, ANSWER]
    source = write(data / "dev.jsonl", row, turns(QUESTION))
    report = evaluate_file(str(model), source, output=tmp_path / "out", batch_size=2)
    rows = rows_of(tmp_path / "out" / "predictions.jsonl")
    path = str(data / CAT)
    assert [row.get("images") for row in rows] == [[path], [path], None]
    assert [row["turn"] for row in rows] == [1, 3, 1]
    assert report.as_dict()["loss"] > 0


def test_the_loss_of_an_evaluation_is_the_models_own_and_depends_on_the_picture(
    model: Path, data: Path
) -> None:
    losses = []
    for name in (CAT, "pictures/dog.png"):
        report = evaluate_file(str(model), write(data / "dev.jsonl", openai(name)), output=data / "out")
        losses.append(report.as_dict()["loss"])
        assert losses[-1] == pytest.approx(own_loss(model, data / name), rel=1e-4)
    assert abs(losses[0] - losses[1]) > 1e-3


def own_loss(folder: Path, path: Path) -> float:
    """transformers' loss of ANSWER to QUESTION about a picture."""
    import PIL.Image
    from transformers import AutoImageProcessor

    template = load_template(folder)
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    picture = processor(images=[PIL.Image.open(path).convert("RGB")], return_tensors="pt")
    mark = "<|image_pad|>" * (int(picture["image_grid_thw"].prod()) // 4)
    asked = (
        f"<|im_start|>user\n<|vision_start|>{mark}<|vision_end|>{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
    )
    question, answer = (template.tokenizer.encode(text) for text in (asked, "A cat.<|im_end|>"))
    ids = torch.tensor([question + answer])
    labels = torch.tensor([[-100] * len(question) + answer])
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    kinds = (ids == template.sight.token).int()
    with torch.no_grad():
        return float(model(input_ids=ids, labels=labels, mm_token_type_ids=kinds, **picture).loss)


def test_a_model_of_text_is_told_to_see_nothing_with_the_line(taught: Path, data: Path) -> None:
    source = write(data / "in.jsonl", turns("Hello?"), openai(CAT))
    for ask in (
        lambda: generate(taught, source, data / "out.jsonl"),
        lambda: evaluate_file(str(taught), source),
    ):
        with pytest.raises(TemplateError, match=r"in\.jsonl:2: .*does not print images; the model sees none"):
            ask()
