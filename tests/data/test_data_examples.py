"""The files of data_examples/ are what their README says."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finetune.chat.template import ChatTemplate
from finetune.config.schema import DataConfig
from finetune.data.checking.check import check_data
from finetune.data.dataset import load_examples
from tests.chat.conftest import make_family
from tests.data import drawn
from tests.data.conftest import byte_tokenizer

FOLDER = Path(__file__).parents[2] / "data_examples"
FORMATS = {
    "messages.jsonl": ("messages", 8),
    "tools.jsonl": ("messages", 6),
    "thoughts.jsonl": ("messages", 3),
    "sharegpt.json": ("sharegpt", 4),
    "alpaca.json": ("alpaca", 4),
    "prompt_completion.jsonl": ("prompt-completion", 4),
    "images.jsonl": ("messages", 7),
    "text.jsonl": ("text", 2),
    "table.csv": ("messages", 2),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_example_file_trains_whole(name, glm4):
    # GLM-4 has no words for thoughts, and sees nothing.
    reader = ChatTemplate(byte_tokenizer(), glm4.source, thinking="drop")
    template = make_family("glm4.1v") if name == "images.jsonl" else reader
    examples = load_examples(DataConfig(train_file=name), name, FOLDER, template, max_length=4096)
    assert (examples.format, examples.ledger.fates["trained"]) == FORMATS[name]
    assert check_data(FOLDER / name).ok


def test_every_example_file_is_listed_in_the_readme():
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert {path.name for path in FOLDER.glob("*.*") if path.suffix != ".md"} == set(FORMATS)
    assert all(f"| `{name}` |" in readme for name in FORMATS)


def test_calls_of_every_spelling_end_in_the_observation_marker(glm4):
    """Upstream defect 2: a turn that is a tool call must end in <|observation|>, an answer in <|user|>."""
    examples = load_examples(DataConfig(train_file="tools.jsonl"), "tools.jsonl", FOLDER, glm4, max_length=4096)
    learnt = [glm4.tokenizer.decode(e.input_ids[e.loss_mask]) for e in examples]
    assert learnt[0] == (
        'get_weather\n{"city": "杭州", "day": "tomorrow"}<|observation|>'
        "\n要的，杭州明天有小雨，最高十九度。<|user|>"
    )
    assert learnt[1].startswith('track_parcel\n{"number": "SF1207"}<|observation|>')


def test_the_pictures_are_shown_in_the_order_in_which_they_are_read():
    template = make_family("glm4.6")
    examples = load_examples(
        DataConfig(train_file="images.jsonl"), "images.jsonl", FOLDER, template, max_length=4096
    )
    shown = [[Path(picture.path).stem for picture in example.pictures] for example in examples]
    (unnamed,) = shown.pop(2)  # the one within the file, called by its hash
    assert len(unnamed) == 64
    assert shown == [
        ["circle"],
        ["square"],
        ["circle", "square"],
        ["chart"],
        ["triangle", "circle"],
        [],
    ]


def test_the_pictures_are_those_that_the_code_draws_and_small():
    assert {path.name for path in drawn.FOLDER.iterdir()} == set(drawn.PICTURES)
    for name in drawn.PICTURES:
        path = drawn.FOLDER / name
        picture = Image.open(path)
        assert np.array_equal(np.asarray(picture), np.asarray(drawn.drawn(name))), "python -m tests.data.drawn"
        assert path.stat().st_size < 3000
