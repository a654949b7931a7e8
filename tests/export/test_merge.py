"""An adapter folder becomes a whole model that transformers loads, or nothing is written."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import (
    IA3Config,
    LoraConfig,
    PeftConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
)
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from finetune import disk
from finetune.chat.load import load_template
from finetune.chat.messages import Conversation, Message
from finetune.data.encode import Prompt
from finetune.disk import require_free
from finetune.errors import ConfigError, FinetuneError, FolderInUseError, ModelError, StorageError
from finetune.export import merge as merging
from finetune.export.merge import merge
from finetune.export.prompts import proof_prompts
from finetune.infer.engine import Sampling
from finetune.infer.load import load_engine
from finetune.model.tiny import make_tiny
from tests.export.adapters import save_moved
from tests.export.cards import run_card

SHAPE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8}
QUESTION = Conversation((Message("user", "你好, who are you?"),))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("models") / "base", **SHAPE)


def save_adapter(base: Path, folder: Path, config: PeftConfig, size: float = 0.1) -> Path:
    """An adapter on `base`, away from its neutral start."""
    return save_moved(AutoModelForCausalLM.from_pretrained(base), config, folder, size)


@pytest.fixture(scope="module")
def adapter(base: Path) -> Path:
    return save_adapter(base, base.parent / "adapter", LoraConfig(target_modules=["q_proj", "v_proj"]))


@pytest.fixture(scope="module")
def merged(adapter: Path) -> merging.Merged:
    return merge(str(adapter), adapter.parent / "merged")


def logits(model: torch.nn.Module, prompt: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(torch.tensor([prompt])).logits


def test_plain_transformers_loads_it_and_says_what_peft_says(
    merged: merging.Merged, base: Path, adapter: Path
) -> None:
    prompt = load_template(base).prompt(QUESTION)
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    ours = AutoModelForCausalLM.from_pretrained(merged.output)
    torch.testing.assert_close(logits(ours, prompt), logits(theirs, prompt), rtol=0, atol=1e-5)


def test_tokenizer_and_template_come_along(merged: merging.Merged, base: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(merged.output)
    messages = [{"role": "user", "content": "你好, who are you?"}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert ids == load_template(base).prompt(QUESTION)
    assert load_template(merged.output).fingerprint == load_template(base).fingerprint


def test_the_generation_config_holds_the_stop_tokens(merged: merging.Merged, base: Path) -> None:
    template = load_template(base)
    config = GenerationConfig.from_pretrained(merged.output)
    assert config.eos_token_id == list(template.stop_ids)
    assert config.pad_token_id == template.pad_id


def test_the_card_tells_the_origin_and_the_proof_but_no_path(merged: merging.Merged) -> None:
    text = (merged.output / "README.md").read_text()
    assert text.startswith('---\nlibrary_name: "transformers"')
    assert "base with a LORA adapter (r 8, lora_alpha 8, on q_proj, v_proj)" in text
    assert "largest logit error" in text
    assert str(merged.output.parent) not in text


def test_the_code_on_the_card_answers(
    merged: merging.Merged, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (merged.output / "README.md").read_text().replace('"..."', '"你好, who are you?"')
    engine = load_engine(str(merged.output))
    [answer] = engine.generate([Prompt(engine.template.prompt(QUESTION))], Sampling(max_new_tokens=12))
    wanted = engine.template.tokenizer.decode(answer.ids, skip_special_tokens=True)
    assert run_card(merged.output, text, monkeypatch, capsys) == f"{wanted}\n"


def test_the_folder_can_be_read_by_others_and_nothing_else_is_left(merged: merging.Merged) -> None:
    assert {path.stat().st_mode & 0o777 for path in merged.output.iterdir()} == {0o644}
    assert not list(merged.output.parent.glob("tmp-*"))
    names = {path.name for path in merged.output.iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "README.md"} <= names
    assert not any(name.startswith("adapter") for name in names)


def test_what_is_printed_names_error_and_change(merged: merging.Merged) -> None:
    lines = merged.lines()
    assert lines[0].startswith("merged ") and lines[-1] == f"merged model: {merged.output}"
    assert any("largest logit error" in line and "at most 1e-05" in line for line in lines)
    assert any(line.startswith("the adapter moves logits by") for line in lines)
    assert merged.proof.positions >= 200


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_dtype_can_be_asked_for(adapter: Path, tmp_path: Path, dtype: str) -> None:
    done = merge(str(adapter), tmp_path / "half", dtype)
    assert json.loads((done.output / "config.json").read_text())["dtype"] == dtype
    assert done.proof.kl <= 1e-3 and done.proof.agreement >= 0.99


def test_ia3_merges(base: Path, tmp_path: Path) -> None:
    config = IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"])
    assert merge(str(save_adapter(base, tmp_path / "ia3", config)), tmp_path / "merged").proof.change > 1e-3


def refused(
    adapter: Path | str, output: Path, error: type[FinetuneError], message: str, dtype: str | None = None
) -> None:
    beside = set(output.parent.iterdir())
    with pytest.raises(error, match=message):
        merge(str(adapter), output, dtype)
    assert set(output.parent.iterdir()) == beside


def test_an_existing_output_is_refused_whatever_it_is(adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("file", "folder", "link"):
        refused(adapter, tmp_path / name, FolderInUseError, "exists already")
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize("kind", ["PREFIX_TUNING", "PROMPT_TUNING"])
def test_an_adapter_that_changes_no_weight_is_refused_with_advice(
    base: Path, tmp_path: Path, kind: str
) -> None:
    configs = {
        "PREFIX_TUNING": PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
        "PROMPT_TUNING": PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
    }
    folder = save_adapter(base, tmp_path / "adapter", configs[kind])
    refused(folder, tmp_path / "out", ModelError, f"{kind} puts .* talk to it as it is .* peft_type: LORA")


def test_a_whole_model_is_refused(base: Path, tmp_path: Path) -> None:
    refused(base, tmp_path / "out", ModelError, "a whole model, with no adapter to merge")


def test_an_unknown_dtype_is_refused_with_the_known_ones(adapter: Path, tmp_path: Path) -> None:
    refused(adapter, tmp_path / "out", ConfigError, r"--dtype fp16: expected one of float32, bfloat16", "fp16")


def changed(adapter: Path, folder: Path, **fields: object) -> Path:
    """A copy of an adapter with other fields in its adapter_config.json."""
    shutil.copytree(adapter, folder)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return folder


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"peft_type": "XLORA"}, "XLORA cannot be merged; LORA, ADALORA, IA3 can"),
        ({"alora_invocation_tokens": [1, 2]}, "alora_invocation_tokens cannot be merged: .* invocation tokens"),
        ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication cannot be merged"),
        ({"base_model_name_or_path": "nowhere"}, "nowhere"),
    ],
)
def test_what_cannot_be_merged_is_refused_before_a_model_is_loaded(
    adapter: Path, tmp_path: Path, fields: dict[str, object], message: str
) -> None:
    refused(changed(adapter, tmp_path / "adapter", **fields), tmp_path / "out", ModelError, message)


def test_a_base_stored_quantized_is_refused(base: Path, adapter: Path, tmp_path: Path) -> None:
    quantized = tmp_path / "quantized"
    shutil.copytree(base, quantized)
    config = json.loads((quantized / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (quantized / "config.json").write_text(json.dumps(config))
    folder = changed(adapter, tmp_path / "adapter", base_model_name_or_path=str(quantized))
    refused(folder, tmp_path / "out", ModelError, "stored quantized.*full-precision model")


def test_an_adapter_for_another_shape_is_refused(adapter: Path, tmp_path: Path) -> None:
    other = make_tiny(tmp_path / "other", **(SHAPE | {"hidden_size": 64}))
    folder = changed(adapter, tmp_path / "adapter", base_model_name_or_path=str(other))
    refused(folder, tmp_path / "out", ModelError, "this base model")


def test_an_adapter_that_learnt_nothing_leaves_no_output(base: Path, tmp_path: Path) -> None:
    folder = save_adapter(base, tmp_path / "adapter", LoraConfig(target_modules=["q_proj"]), size=0)
    refused(folder, tmp_path / "out", ModelError, "changes nothing")


def test_a_failed_proof_leaves_no_output(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The merged weights are spoilt on their way to the disk."""
    real = merging.write_model

    def spoil(model: torch.nn.Module, *rest: object) -> None:
        model.get_parameter("model.layers.0.mlp.down_proj.weight").data *= 1.01
        real(model, *rest)

    monkeypatch.setattr(merging, "write_model", spoil)
    refused(adapter, tmp_path / "out", ModelError, "does not say what base")


def test_a_disk_that_is_too_small_is_told_before_anything_is_loaded(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "bytes_free", lambda folder: 1000)
    monkeypatch.setattr(merging, "load_base", require_free)  # would fail loudly if it were called
    refused(adapter, tmp_path / "out", StorageError, r"needs 64\.\d MB .* and 1\.0 kB \(1000 bytes\) are free")


def test_a_disk_that_fills_up_is_a_storage_error_and_leaves_no_output(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(merging, "write_model", full)
    refused(adapter, tmp_path / "out", StorageError, "the disk is full")


def test_the_proof_also_asks_what_the_run_was_evaluated_on(base: Path, tmp_path: Path) -> None:
    template = load_template(base)
    rows = [{"prompt": template.prompt_text(QUESTION), "reference": "A house."}] * 9
    (tmp_path / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    fixed, own = proof_prompts(template, None), proof_prompts(template, tmp_path)
    assert own[: len(fixed)] == fixed and len(own) == len(fixed) + 4
    assert own[-1].ids[: len(template.prompt(QUESTION))] == template.prompt(QUESTION)


TIED: dict[str, tuple[dict[str, Any], bool]] = {
    "tokens": ({"trainable_token_indices": [5, 6]}, True),
    "tokens of the embeddings": ({"trainable_token_indices": {"embed_tokens": [5, 6]}}, True),
    "other tokens of the head": ({"trainable_token_indices": {"embed_tokens": [5], "lm_head": [7]}}, False),
    "embeddings in full": ({"modules_to_save": ["embed_tokens"]}, False),
    "embeddings in full, tied": ({"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}, True),
    "a low rank on embeddings": ({"target_modules": ["embed_tokens"]}, False),
}
"""What LoRA has besides; whether input and output embeddings are one matrix when merged."""


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def tied(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base whose input and output embeddings are one matrix, as in most small models."""
    folder = make_tiny(tmp_path_factory.mktemp("tied") / "base", tie_word_embeddings=True, **SHAPE)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, request.param))
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", TIED)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_what_is_learnt_beside_tied_embeddings_merges_as_it_says(kind: str, tied: Path, tmp_path: Path) -> None:
    options, one_matrix = TIED[kind]
    adapter = save_adapter(tied, tmp_path / "adapter", LoraConfig(**{"target_modules": ["q_proj"], **options}))
    done = merge(str(adapter), tmp_path / "merged")
    assert done.proof.change > done.proof.error
    model = AutoModelForCausalLM.from_pretrained(done.output)
    assert model.config.tie_word_embeddings is one_matrix
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) is one_matrix
    base = AutoModelForCausalLM.from_pretrained(tied)
    moved = (model.get_input_embeddings().weight != base.get_input_embeddings().weight).any(1).nonzero()
    if "tokens" in kind:
        assert moved.flatten().tolist() == ([5] if "other" in kind else [5, 6])
