"""What may be named on the command line, and what it loads."""

from pathlib import Path

import pytest
import torch

from finetune.chat.load import load_template
from finetune.chat.messages import Conversation, Message
from finetune.data.encode import prompt_of
from finetune.errors import ModelError
from finetune.estimate.processor import Processor, keep
from finetune.infer.engine import Sampling
from finetune.infer.load import load_engine

LONG = Sampling(max_new_tokens=40)


def answer(engine, text: str) -> str:
    prompt = prompt_of(engine.template, Conversation((Message("user", text),)))
    [completion] = engine.generate([prompt], LONG)
    return engine.template.parse(completion.ids).content


@pytest.fixture(scope="module")
def adapter(taught: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter folder that names its base and has the tokenizer beside it."""
    from peft import LoraConfig, get_peft_model
    from transformers import GlmForCausalLM

    folder = tmp_path_factory.mktemp("adapter")
    config = LoraConfig(r=2, task_type="CAUSAL_LM", target_modules=["q_proj"], init_lora_weights=False)
    get_peft_model(GlmForCausalLM.from_pretrained(taught), config).save_pretrained(folder)
    load_template(taught).save(folder)
    return folder


def test_a_model_folder_answers(taught: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine = load_engine(str(taught))
    assert answer(engine, "你好") == "你好，我在。"
    assert not engine.has_adapter
    assert f"model: {taught}" in capsys.readouterr().err


def test_an_adapter_folder_brings_its_base(adapter: Path) -> None:
    engine = load_engine(str(adapter))
    assert engine.has_adapter
    with engine.without_adapter():
        assert answer(engine, "你好") == "你好，我在。"


@pytest.mark.parametrize(("slowdown", "dtype"), [(1.1, torch.bfloat16), (9.0, torch.float32)])
def test_a_model_keeps_the_dtype_it_is_stored_in_unless_the_processor_is_slow_in_it(
    slowdown: float, dtype: torch.dtype, taught: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import GlmForCausalLM

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    keep(Processor({"BF16": slowdown}))
    GlmForCausalLM.from_pretrained(taught, dtype=torch.bfloat16).save_pretrained(tmp_path)
    load_template(taught).save(tmp_path)
    engine = load_engine(str(tmp_path))
    assert {parameter.dtype for parameter in engine.model.parameters()} == {dtype}
    assert answer(engine, "Where is the river?")


def test_a_base_can_be_loaded_in_four_bits(adapter: Path) -> None:
    pytest.importorskip("bitsandbytes")
    engine = load_engine(str(adapter), quantization="nf4")
    assert any("4bit" in type(module).__name__ for module in engine.model.modules())
    with engine.without_adapter():
        assert answer(engine, "你好")


def test_an_adapter_that_changed_its_base_talks_and_cannot_be_switched_off(
    taught: Path, tmp_path: Path
) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import GlmForCausalLM

    config = LoraConfig(r=2, task_type="CAUSAL_LM", target_modules=["q_proj"], init_lora_weights="pissa")
    get_peft_model(GlmForCausalLM.from_pretrained(taught), config).save_pretrained(tmp_path)
    load_template(taught).save(tmp_path)
    engine = load_engine(str(tmp_path))
    assert answer(engine, "你好") == "你好，我在。"
    with pytest.raises(ModelError, match="init_lora_weights: pissa changed the base"), engine.without_adapter():
        pass


def test_a_folder_that_is_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=str(tmp_path)):
        load_engine(str(tmp_path))
