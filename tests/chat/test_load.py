"""From a folder to a template and back."""

import json
import shutil
import subprocess
import sys

import pytest

from finetune.chat.dialects import describe
from finetune.chat.load import load_template
from finetune.chat.messages import Conversation, Message, Tool
from finetune.errors import ModelError, TemplateError, UntrustedContentError

CHAT = Conversation((Message("user", "你好"), Message("assistant", "hi")))


@pytest.fixture
def folder(family, tmp_path):
    family("glm4").save(tmp_path / "model")
    return tmp_path / "model"


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_what_is_saved_loads_to_the_same_ids(family, folder):
    assert load_template(folder).render(CHAT) == family("glm4").render(CHAT)
    assert load_template(str(folder)).fingerprint == family("glm4").fingerprint


def test_saving_again_writes_the_same_bytes(folder, tmp_path):
    load_template(folder).save(tmp_path / "again")
    again = {file.name: file.read_bytes() for file in (tmp_path / "again").iterdir()}
    assert again == {file.name: file.read_bytes() for file in folder.iterdir()}


def test_saving_into_its_own_folder_changes_nothing(folder):
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    load_template(folder).save(folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_transformers_renders_a_saved_folder_the_same(folder):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    messages = [{"role": "user", "content": "你好"}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert ids == load_template(folder).prompt(CHAT.before(1))


def test_another_template_goes_where_the_tokenizer_goes(folder, tmp_path):
    (tmp_path / "mine.jinja").write_text("{% for m in messages %}{{ m.content }}<|user|>{% endfor %}")
    edit(folder / "tokenizer_config.json", chat_template="old")
    template = load_template(folder, chat_template=tmp_path / "mine.jinja")
    assert template.prompt_text(CHAT.before(1)) == "你好<|user|>"
    template.save(tmp_path / "out")
    assert load_template(tmp_path / "out").source == template.source
    assert "chat_template" not in json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())


def test_the_template_belongs_to_the_fingerprint(folder, tmp_path):
    (tmp_path / "mine.jinja").write_text("{% for m in messages %}{{ m.content }}<|user|>{% endfor %}")
    other = load_template(folder, chat_template=tmp_path / "mine.jinja")
    assert other.fingerprint != load_template(folder).fingerprint


def test_padding_and_truncation_of_whoever_saved_the_tokenizer_are_off(family, folder):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=64)
    tokenizer.save(str(folder / "tokenizer.json"))
    assert load_template(folder).render(CHAT) == family("glm4").render(CHAT)


def test_a_vision_checkpoints_template_lies_with_its_processor(folder):
    source = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": source}))
    assert load_template(folder).source == source


def test_loading_does_not_load_torch(folder):
    code = f"""
import sys
from finetune.chat.dialects import describe
from finetune.chat.load import load_template
load_template({str(folder)!r})
print([name for name in ("torch", "peft", "accelerate") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def damaged_tokenizer(folder):
    (folder / "tokenizer.json").write_text((folder / "tokenizer.json").read_text()[:500])


def nonsense_tokenizer(folder):
    (folder / "tokenizer.json").write_text("{}")


def damaged_config(folder):
    (folder / "tokenizer_config.json").write_text("{")


def no_template(folder):
    (folder / "chat_template.jinja").unlink()


def damaged_template(folder):
    (folder / "chat_template.jinja").write_text("{% if %}")


def silent_template(folder):
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
    )


def an_adapter(folder):
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")


def a_run_folder(folder):
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "run.json").write_text("{}")


def an_empty_folder(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def gone(folder):
    shutil.rmtree(folder)


def remote_code(folder):
    (folder / "tokenizer.json").unlink()
    edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization_x.X", None]})


@pytest.mark.parametrize(
    ("damage", "error", "reason"),
    [
        (damaged_tokenizer, ModelError, r"tokenizer\.json: damaged: "),
        (nonsense_tokenizer, ModelError, r"tokenizer\.json: damaged: "),
        (damaged_config, ModelError, r"tokenizer_config\.json:1:\d+: damaged: "),
        (no_template, TemplateError, r"has no chat template .*set model_config\.chat_template"),
        (damaged_template, TemplateError, r"chat_template\.jinja:1: not a chat template"),
        (silent_template, TemplateError, "does not print the assistant's answer"),
        (an_adapter, ModelError, "an adapter without a tokenizer; give its base model's folder"),
        (a_run_folder, ModelError, "a run folder; its tokenizer lies in its checkpoint"),
        (an_empty_folder, ModelError, "is this a model folder"),
        (gone, ModelError, "no such folder"),
        (remote_code, UntrustedContentError, "set model_config.trust_remote_code if you trust it"),
    ],
)
def test_a_folder_that_cannot_be_used_says_why(folder, damage, error, reason):
    damage(folder)
    with pytest.raises(error, match=reason):
        load_template(folder)


def test_a_template_file_that_is_not_there_is_named(folder, tmp_path):
    with pytest.raises(TemplateError, match=r"mine\.jinja: chat template cannot be read"):
        load_template(folder, chat_template=tmp_path / "mine.jinja")


NAMED = {
    "default": "{%- for m in messages %}\n<|{{ m.role }}|>{{ m.content }}\n    {% endfor %}\n  {{- x -}}\n",
    "tool_use": "  {% macro f(t) %}{{ t.function.name }}{% endmacro %}\n\n"
    "{% for t in tools %}\n{{ f(t) }}\n{% endfor %}\n"
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}\n   \n",
}


@pytest.mark.parametrize("form", ["a list in tokenizer_config.json", "files of their own"])
@pytest.mark.parametrize("tools", [(), (Tool("look_up", "d"),)])
def test_of_named_templates_tool_use_renders_where_there_are_tools(folder, tmp_path, form, tools):
    (folder / "chat_template.jinja").unlink()
    if form == "files of their own":
        (folder / "chat_template.jinja").write_text(NAMED["default"], newline="")
        (folder / "additional_chat_templates").mkdir()
        (folder / "additional_chat_templates" / "tool_use.jinja").write_text(NAMED["tool_use"], newline="")
    else:
        named = [{"name": name, "template": source} for name, source in NAMED.items()]
        edit(folder / "tokenizer_config.json", chat_template=named)
    from transformers import AutoTokenizer

    asked = [{"role": "user", "content": "q"}]
    described = [describe(tool) for tool in tools] or None
    theirs = AutoTokenizer.from_pretrained(folder).apply_chat_template(asked, tools=described, tokenize=False)
    template = load_template(folder)
    template.save(tmp_path / "out")
    for loaded in (template, load_template(tmp_path / "out")):
        assert loaded.prompt_text(Conversation((Message("user", "q"),), tools)) == theirs
