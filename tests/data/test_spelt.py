"""Control tokens that texts spell: characters, and counted; one id each where data_config names them."""

import json

import pytest
from transformers import PreTrainedTokenizerFast

from finetune.chat.load import load_template
from finetune.chat.messages import Conversation, Message
from finetune.chat.template import ChatTemplate
from finetune.config.schema import Config, DataConfig
from finetune.data.checking.check import check_data
from finetune.data.dataset import load_examples
from finetune.data.encode import encode
from finetune.data.reading.formats import PlainText
from finetune.errors import ConfigError
from finetune.train.prepare import _refuse_absent_tokens
from tests.data.conftest import GLM4, byte_tokenizer

MAP, ON = "<|map|>", "<|think_on|>"


def tokenizer() -> PreTrainedTokenizerFast:
    made = byte_tokenizer()
    made.add_special_tokens({"additional_special_tokens": [MAP, ON]})
    return made


def template(*text_tokens: str) -> ChatTemplate:
    return ChatTemplate(tokenizer(), GLM4.read_text(encoding="utf-8"), name="glm4", text_tokens=text_tokens)


ASKED = Conversation((Message("user", f"Where {MAP}?"), Message("assistant", f"{MAP}12,4{ON}")))


def trained(made: ChatTemplate, source) -> list[str]:
    ((example,), _) = encode(source, made, max_length=99)
    return made.tokenizer.convert_ids_to_tokens(example.input_ids[example.loss_mask].tolist())


def test_a_named_token_is_its_one_id_in_questions_answers_and_documents():
    named = template(MAP, ON)
    assert trained(named, ASKED) == ["Ċ", MAP, "1", "2", ",", "4", ON, "<|user|>"]
    assert named.prompt(ASKED.before(1)).count(named.tokenizer.convert_tokens_to_ids(MAP)) == 1
    assert trained(named, PlainText(f"a{MAP}b<|user|>"))[:3] == ["a", MAP, "b"]
    assert "<|user|>" not in trained(named, PlainText(f"{MAP}<|user|>"))


def test_a_token_that_is_not_named_is_spelt():
    assert len(trained(template(), ASKED)) == 1 + len(f"{MAP}12,4{ON}") + 1
    assert MAP not in trained(template(), PlainText(f"a{MAP}"))


def test_the_message_of_a_named_token_is_read_back_as_it_was_written():
    named = template(MAP, ON)
    ((example,), _) = encode(ASKED, named, max_length=99)
    message = named.parse(example.input_ids[example.loss_mask].tolist())
    assert message.content.strip() == f"{MAP}12,4{ON}"


@pytest.mark.parametrize("token", ["<|user|>", "<|observation|>", "<|assistant|>", "[gMASK]", "<|endoftext|>"])
def test_a_token_of_the_template_cannot_be_named(token):
    with pytest.raises(ConfigError, match="belongs to the chat template"):
        template(token)


def test_what_is_no_added_token_cannot_be_named():
    with pytest.raises(ConfigError, match=r"'<\|mop\|>' is no token that was added"):
        template("<|mop|>")


def test_the_tuned_model_keeps_the_names(tmp_path):
    template(MAP).save(tmp_path)
    again = load_template(tmp_path)
    assert (again.text_tokens, trained(again, ASKED)[1]) == ((MAP,), MAP)
    assert again.fingerprint == template(MAP).fingerprint != template().fingerprint
    again.save(tmp_path / "merged")
    assert load_template(tmp_path / "merged").text_tokens == (MAP,)
    assert load_template(tmp_path, special_tokens_in_text=[ON]).text_tokens == (ON,)


def rows(tmp_path, *answers: str) -> str:
    lines = [json.dumps({"prompt": f"q {MAP}", "completion": answer}) for answer in answers]
    (tmp_path / "train.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(tmp_path / "train.jsonl")


def test_every_control_token_spelt_in_an_answer_is_counted_in_check_and_in_training(tmp_path):
    file = rows(tmp_path, "plain", f"{MAP} {MAP}", f"{ON}{MAP}")
    told = [
        f"{file}:2:{len(json.dumps({'prompt': f'q {MAP}'})) + 16}: W532 the control token '{MAP}' is spelt in "
        "trained text, 3 times, and learnt as characters; "
        "a token of your own becomes one id where data_config.special_tokens_in_text names it",
    ]
    report = check_data(file, template())
    kept = [str(one) for one in report.findings.kept["W532"]]
    assert kept[:1] == told and f"'{ON}' is spelt in trained text, once" in kept[1] and len(kept) == 2
    config = DataConfig(train_file="train.jsonl")
    examples = load_examples(config, "train.jsonl", tmp_path, template(), max_length=99)
    assert list(examples.files[0].remarks) == kept
    assert check_data(file, template(MAP, ON)).findings.counts["W532"] == 0


def test_thoughts_at_the_head_of_an_answer_are_no_spelt_tokens(tmp_path, forgetful):
    report = check_data(rows(tmp_path, "<think>t</think>a"), forgetful)
    assert report.findings.counts["W532"] == 0


def test_a_trainable_token_that_never_occurs_is_refused(tmp_path):
    rows(tmp_path, f"{MAP}!")
    index = tokenizer().convert_tokens_to_ids(MAP)
    lora = {"peft_type": "LORA", "trainable_token_indices": [index]}
    config = Config(data_config=DataConfig(train_file="train.jsonl"), peft_config=lora)
    for made, occurs in ((template(), False), (template(MAP), True)):
        examples = load_examples(config.data_config, "train.jsonl", tmp_path, made, max_length=99)
        if occurs:
            _refuse_absent_tokens(config, examples, made)
        else:
            with pytest.raises(
                ConfigError, match=rf"trainable_token_indices: {index} \('<\|map\|>'\) never occurs"
            ):
                _refuse_absent_tokens(config, examples, made)
