"""What the other tests of this tier stand on can be had."""

import json

import pytest

from tests.real import things

pytestmark = pytest.mark.real


def test_the_model_is_a_transformers_folder_of_its_135_million_weights() -> None:
    folder = things.smollm2()
    config = json.loads((folder / "config.json").read_text())
    assert (config["model_type"], config["num_hidden_layers"], config["hidden_size"]) == ("llama", 30, 576)
    assert (folder / "model.safetensors").stat().st_size == pytest.approx(2 * 134_515_008, rel=1e-3)
    assert "<|im_start|>" in (folder / "chat_template.jinja").read_text()


def test_there_are_as_many_accepted_answers_as_questions() -> None:
    for name, rows in (("simple_python", 400), ("live_simple", 258), ("live_multiple", 1053)):
        for folder in (things.bfcl(), things.bfcl() / "possible_answer"):
            assert len((folder / f"BFCL_v4_{name}.json").read_text().splitlines()) == rows


def test_there_are_templates_of_other_makers() -> None:
    assert len(list(things.trl_templates().glob("*.jinja"))) >= 40
    assert len(list(things.llama_cpp_templates().glob("*.jinja"))) >= 60


@pytest.mark.parametrize("name", things.TOKENIZERS)
def test_a_tokenizer_reads_its_own_writing(name: str) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(things.tokenizer(name) / "tokenizer.json"))
    ids = tokenizer.encode("Straße 北京 1,024", add_special_tokens=False).ids
    assert tokenizer.decode(ids).strip() == "Straße 北京 1,024"
