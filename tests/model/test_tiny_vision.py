"""The small GLM-4.1V from code and a seed: always the same, and seen by everything as what it is."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL.Image import new
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

from finetune.chat.load import load_template
from finetune.chat.messages import Conversation, Image, Message
from finetune.chat.sight import read_sight
from finetune.disk import sha256_of
from finetune.model.tiny_vision import VISION_TOKENS, make_tiny_vision

SHAPE = {"num_hidden_layers": 1, "hidden_size": 64, "intermediate_size": 16}
TOWER = {"depth": 1, "hidden_size": 16, "num_heads": 2, "intermediate_size": 16}
CORPUS = ["the old mill by the river"] * 3


def bytes_of(folder: Path) -> dict[str, str]:
    return {path.name: sha256_of(path) for path in folder.iterdir()}


def make(folder: Path, seed: int = 0) -> Path:
    return make_tiny_vision(folder, CORPUS, seed=seed, vocab_size=320, tower=TOWER, **SHAPE)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("tiny") / "one")


def test_the_same_arguments_give_the_same_bytes(tiny: Path, tmp_path: Path) -> None:
    assert bytes_of(make(tmp_path / "again")) == bytes_of(tiny)


def test_another_seed_gives_other_weights_and_nothing_else(tiny: Path, tmp_path: Path) -> None:
    first, other = bytes_of(tiny), bytes_of(make(tmp_path / "other", seed=1))
    assert {name for name in first if first[name] != other[name]} == {"model.safetensors"}


def test_transformers_loads_all_of_it_by_the_usual_names(tiny: Path) -> None:
    model, tokenizer = AutoModelForImageTextToText.from_pretrained(tiny), AutoTokenizer.from_pretrained(tiny)
    processor = AutoImageProcessor.from_pretrained(tiny, backend="pil")
    assert type(model).__name__ == "Glm4vForConditionalGeneration"
    assert type(processor).__name__ == "Glm4vImageProcessorPil"
    text = model.config.text_config
    assert text.vocab_size >= len(tokenizer) and text.vocab_size % 64 == 0
    named = {
        name: tokenizer.convert_ids_to_tokens(i)
        for name, i in model.config.to_dict().items()
        if name.endswith("token_id")
    }
    assert named | {"pad_token_id": None} == {
        "image_start_token_id": "<|begin_of_image|>",
        "image_token_id": "<|image|>",
        "image_end_token_id": "<|end_of_image|>",
        "video_start_token_id": "<|begin_of_video|>",
        "video_token_id": "<|video|>",
        "video_end_token_id": "<|end_of_video|>",
        "pad_token_id": None,
    }


def test_it_has_glm_4_1v_s_control_tokens_but_no_words_for_thoughts(tiny: Path) -> None:
    words = AutoTokenizer.from_pretrained(tiny).get_vocab().keys()
    assert set(VISION_TOKENS) <= words
    assert {"[gMASK]", "<sop>", "<|user|>", "<|begin_of_image|>", "<|image|>", "<|end_of_image|>"} <= words
    assert not words & {"<think>", "</think>", "<answer>", "</answer>"}


def test_its_conversations_are_spelt_like_glm_4_1v_s(tiny: Path) -> None:
    asked = Message("user", "What is it? And this?", images=(Image("a.png"), Image("b.png", offset=12)))
    talk = (Message("system", "Be brief."), asked, Message("assistant", "A mill."), Message("user", "Old?"))
    image = "<|begin_of_image|><|image|><|end_of_image|>"
    assert load_template(tiny).prompt_text(Conversation(talk)) == (
        "[gMASK]<sop><|system|>\nBe brief."
        f"<|user|>\n{image}What is it? {image}And this?"
        "<|assistant|>\nA mill."
        "<|user|>\nOld?"
        "<|assistant|>\n"
    )


def test_an_answer_is_ended_by_the_next_role_and_by_nothing_of_its_own(tiny: Path) -> None:
    template = load_template(tiny)
    (rendered,) = template.render(Conversation((Message("user", "Old?"), Message("assistant", "Very."))))
    learnt = [i for i, learn in zip(rendered.input_ids, rendered.loss_mask, strict=True) if learn]
    assert AutoTokenizer.from_pretrained(tiny).decode(learnt) == "Very.<|user|>"


# width and height in pixels, tokens: one for every 28 x 28, at least one and at most 64
SIZES = [(56, 56, 4), (28, 28, 1), (84, 56, 6), (30, 30, 1), (3, 3, 1), (10, 200, 20), (500, 400, 56)]


@pytest.mark.parametrize(("width", "height", "tokens"), SIZES)
def test_its_sight_counts_what_its_image_processor_makes(
    tiny: Path, width: int, height: int, tokens: int
) -> None:
    sight, processor = read_sight(tiny), AutoImageProcessor.from_pretrained(tiny, backend="pil")
    assert sight is not None and sight == load_template(tiny).sight
    made = processor(images=[new("RGB", (width, height))], return_tensors="pt")
    assert made["image_grid_thw"].tolist() == [[1, *sight.patches(width, height)]]
    assert len(made["pixel_values"]) // 4 == sight.tokens(width, height) == tokens


def test_what_it_says_depends_on_the_picture(tiny: Path) -> None:
    model, processor = (
        AutoModelForImageTextToText.from_pretrained(tiny),
        AutoImageProcessor.from_pretrained(tiny, backend="pil"),
    )
    ids = torch.tensor([[*range(9), *[model.config.image_token_id] * 4, *range(9)]])
    kinds = (ids == model.config.image_token_id).int()
    said = []
    for colour in ("red", "blue", "red"):
        made = processor(images=[new("RGB", (56, 56), colour)], return_tensors="pt")
        with torch.no_grad():
            said.append(model(input_ids=ids, mm_token_type_ids=kinds, **made).logits[0, -1].numpy())
    assert np.array_equal(said[0], said[2])
    assert not np.allclose(said[0], said[1])


@pytest.mark.parametrize(("hidden", "section"), [(96, [2, 2, 2]), (128, [2, 3, 3]), (512, [8, 12, 12])])
def test_half_of_each_head_turns_in_time_rows_and_columns(
    tmp_path: Path, hidden: int, section: list[int]
) -> None:
    folder = make_tiny_vision(tmp_path, vocab_size=320, tower=TOWER, num_hidden_layers=1, hidden_size=hidden)
    text = json.loads((folder / "config.json").read_text())["text_config"]
    assert text["rope_parameters"]["mrope_section"] == section
    assert 2 * sum(section) == hidden // text["num_attention_heads"] / 2


def test_a_tower_of_other_patches_gets_a_processor_that_cuts_them(tmp_path: Path) -> None:
    folder = make_tiny_vision(
        tmp_path / "fine", vocab_size=320, tower={"patch_size": 8, "image_size": 32, **TOWER}
    )
    sight = read_sight(folder)
    assert sight is not None and sight.side == 8 and sight.tokens(32, 32) == 4
