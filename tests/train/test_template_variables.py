"""Variables of the chat template stay with what was trained under them, wherever it goes."""

import json
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from finetune.chat.load import load_template
from finetune.chat.messages import Conversation, Message
from finetune.errors import TemplateError
from finetune.export.merge import merge
from finetune.infer.load import load_engine
from finetune.train.run import train
from tests.train.conftest import LORA, Configure

GLM45 = Path(__file__).parents[1] / "chat" / "templates" / "glm45.jinja"
ASKED = Conversation((Message("user", "say red"),))
SILENT = "[gMASK]<sop><|user|>\nsay red/nothink<|assistant|>\n<think></think>"


def with_template(config: Path, **variables: bool) -> Path:
    """The YAML under GLM-4.5's template, thoughts dropped."""
    content = YAML().load(config)
    content["data_config"]["thinking"] = "drop"
    content["model_config"] = {"chat_template": str(GLM45), "chat_template_kwargs": variables}
    YAML().dump(content, config)
    return config


def test_a_run_its_checkpoints_and_its_merged_model_all_ask_without_thoughts(
    small: Path, data: Path, configure: Configure, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in (data / "train.jsonl").read_text().splitlines()]
    for row in rows:
        row["messages"][-1]["reasoning_content"] = "hm"
    (data / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = with_template(configure(LORA, max_steps=2, save_steps=2), enable_thinking=False)
    output = train(data, str(small), config)
    assert load_template(output / "checkpoint-2").prompt_text(ASKED) == SILENT
    assert load_engine(str(output)).template.prompt_text(ASKED) == SILENT
    merged = tmp_path / "merged"
    merge(str(output), merged)
    assert load_template(merged).prompt_text(ASKED) == SILENT
    assert "enable_thinking false unless a request says otherwise" in (merged / "README.md").read_text()


def test_a_variable_that_the_template_does_not_read_is_refused_before_anything_is_written(
    small: Path, data: Path, configure: Configure, tmp_path: Path
) -> None:
    config = with_template(configure(LORA), enable_thinkin=False)
    line = config.read_text().splitlines().index("    enable_thinkin: false") + 1
    with pytest.raises(TemplateError, match=rf"^{config}:{line}: .*reads no 'enable_thinkin'"):
        train(data, str(small), config)
    assert not (tmp_path / "out" / "run.json").exists()
