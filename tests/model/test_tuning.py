"""Which weights learn, under which names, and which adapters are taken up again."""

import json
from dataclasses import field, fields, make_dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from finetune.config.tuning import OURS_ALONE, TUNINGS, Tuning, all_options
from finetune.errors import ConfigError, ModelError, UntrustedContentError
from finetune.model import tuning as room
from finetune.model.save import save_tuned
from finetune.model.tiny import make_tiny
from finetune.model.tuned import Tuned
from finetune.model.tuning import apply_tuning, load_adapter, peft_config

TUNING: TypeAdapter[Tuning] = TypeAdapter(Tuning)
QKV = {"peft_type": "LORA", "target_modules": ["query_key_value"]}


def tune(base: PreTrainedModel, **peft: Any) -> Tuned:
    return apply_tuning(base, TUNING.validate_python(peft))


def adapted(tuned: Tuned) -> set[str]:
    """The last names of the modules that have an adapter."""
    return {name.split(".lora_")[0].rsplit(".", 1)[-1] for name, _ in tuned.trainable() if ".lora_" in name}


@pytest.mark.parametrize(
    ("named", "meant"),
    [
        ("query_key_value", {"q_proj", "k_proj", "v_proj"}),
        ("dense", {"o_proj"}),
        ("dense_h_to_4h", {"gate_up_proj"}),
        ("dense_4h_to_h", {"down_proj"}),
        ("output_layer", {"lm_head"}),
    ],
)
def test_chatglm_s_names_mean_this_architecture_s_and_it_is_said(
    named: str, meant: set[str], base: PreTrainedModel, capsys: pytest.CaptureFixture[str]
) -> None:
    assert adapted(tune(base, peft_type="LORA", target_modules=[named])) == meant
    said = capsys.readouterr().err
    assert said.startswith(f"target_modules: {named} is ")
    assert all(name in said for name in meant)


def test_a_name_that_the_model_has_is_taken_without_a_word(
    base: PreTrainedModel, capsys: pytest.CaptureFixture[str]
) -> None:
    assert adapted(tune(base, peft_type="LORA", target_modules=["q_proj"])) == {"q_proj"}
    assert capsys.readouterr().err == ""


def test_ia3_knows_the_old_names_of_its_feed_forward_modules_too(base: PreTrainedModel) -> None:
    old = {"target_modules": ["query_key_value", "dense_4h_to_h"], "feedforward_modules": ["dense_4h_to_h"]}
    config = tune(base, peft_type="IA3", **old).model.active_peft_config
    assert config.target_modules == {"q_proj", "k_proj", "v_proj", "down_proj"}
    assert config.feedforward_modules == {"down_proj"}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "one misspelt among several": (
        {"target_modules": ["q_proj", "v_porj"]},
        "target_modules: the model has no module 'v_porj'; did you mean v_proj",
    ),
    "nothing like it": (
        {"target_modules": ["mixer"]},
        "no module 'mixer'; its modules are .*down_proj, embed_tok",
    ),
    "a name that is no list": (
        {"target_modules": "q_proj"},
        r"'q_proj' matches no .* such as \[q_proj, v_proj\]",
    ),
    "no names at all": ({}, "target_modules"),
    "a misspelt head": ({"modules_to_save": ["lm_haed"]}, "modules_to_save: .* did you mean lm_head"),
    "a rank for nothing": ({"rank_pattern": {"query": 2}}, "rank_pattern: 'query' matches no module"),
    "an alpha for nothing": ({"alpha_pattern": {"query": 2}}, "alpha_pattern: 'query' matches no module"),
    "a layer too many": ({"layers_to_transform": [0, 7]}, "layers_to_transform: 7: the model has 0 to 1"),
    "a token too many": ({"trainable_token_indices": [9999]}, "9999: the model has 0 to 319"),
    "a norm": ({"target_modules": ["norm"]}, "peft_config: Target module GlmRMSNorm.* is not supported"),
}


@pytest.mark.parametrize("problem", REFUSED)
def test_what_the_model_does_not_have_is_refused(problem: str, base: PreTrainedModel) -> None:
    options, message = REFUSED[problem]
    named = {} if problem == "no names at all" else {"target_modules": ["q_proj"]}
    with pytest.raises(ConfigError, match=message):
        tune(base, peft_type="LORA", **named | options)


def test_all_linear_is_every_linear_layer_but_the_head_in_the_same_bytes_every_time(
    small: Path, tmp_path: Path
) -> None:
    written = []
    for name in ("one", "two"):
        model = AutoModelForCausalLM.from_pretrained(small)
        tuned = tune(model, peft_type="LORA", target_modules="all-linear")
        assert adapted(tuned) == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj"}
        save_tuned(tuned, tmp_path / name)
        written.append((tmp_path / name / "adapter_config.json").read_bytes())
    assert written[0] == written[1]
    targets = json.loads(written[0])["target_modules"]
    assert targets == sorted(targets)


@pytest.mark.parametrize(
    ("kind", "right"),
    [("PREFIX_TUNING", (2, 16)), ("P_TUNING", (4, 32)), ("PROMPT_TUNING", (4, 32))],
)
def test_virtual_tokens_take_the_model_s_shape_and_say_where_the_yaml_disagreed(
    kind: str, right: tuple[int, int], base: PreTrainedModel, capsys: pytest.CaptureFixture[str]
) -> None:
    tuned = tune(base, peft_type=kind, num_virtual_tokens=3, num_attention_heads=99, token_dim=256)
    config = tuned.model.active_peft_config
    assert (config.num_attention_heads, config.token_dim, config.num_layers) == (*right, 2)
    said = capsys.readouterr().err
    assert f"num_attention_heads: 99 does not fit the model; {right[0]} does, and is used" in said
    assert f"token_dim: 256 does not fit the model; {right[1]} does" in said
    tuned.model(input_ids=torch.arange(5)[None])


def test_a_prompt_s_text_is_read_by_the_model_s_own_tokenizer(base: PreTrainedModel) -> None:
    text = {"prompt_tuning_init": "TEXT", "prompt_tuning_init_text": "red"}
    tuned = tune(base, peft_type="PROMPT_TUNING", num_virtual_tokens=3, **text)
    [(_, prompt)] = tuned.trainable()
    assert all(any(torch.equal(row, word) for word in base.get_input_embeddings().weight) for row in prompt)


def test_freeze_patterns_keep_what_they_match_from_learning(base: PreTrainedModel) -> None:
    tuned = apply_tuning(base, None, freeze=["layers.0.", "embed_tokens"])
    frozen = {name for name, _ in tuned.frozen()}
    assert frozen == {n for n, _ in base.named_parameters() if "layers.0." in n or "embed_tokens" in n}
    assert len(frozen) > 1
    with pytest.raises(ConfigError, match=r"'layers.9.' matches no parameter"):
        apply_tuning(base, None, freeze=["layers.9."])


def test_freezing_the_vision_tower_of_a_text_model_is_no_mistake(
    base: PreTrainedModel, capsys: pytest.CaptureFixture[str]
) -> None:
    tuned = apply_tuning(base, None, freeze=["vision"])
    assert not list(tuned.frozen())
    assert "sees no images" in capsys.readouterr().err


@pytest.mark.parametrize(
    "peft",
    [
        None,
        QKV,
        {**QKV, "use_dora": True, "bias": "all", "modules_to_save": ["lm_head"]},
        {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 3},
        {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 3, "prefix_projection": True},
        {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 3},
        {"peft_type": "IA3", "target_modules": ["k_proj"], "feedforward_modules": []},
    ],
)
def test_what_learns_is_float32_over_a_bfloat16_base(peft: dict[str, Any] | None, small: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(small, dtype=torch.bfloat16)
    tuned = apply_tuning(base, None) if peft is None else tune(base, **peft)
    assert tuned.base_dtype == torch.bfloat16
    assert {parameter.dtype for _, parameter in tuned.trainable()} == {torch.float32}
    assert {parameter.dtype for _, parameter in tuned.frozen()} <= {torch.bfloat16}


@pytest.fixture
def adapter(base: PreTrainedModel, tmp_path: Path) -> Path:
    """A LoRA that does something."""
    torch.manual_seed(0)
    tuned = tune(base, **QKV, init_lora_weights=False)
    save_tuned(tuned, tmp_path / "adapter")
    return tmp_path / "adapter"


def logits(model: PreTrainedModel | PeftModel) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=torch.arange(12)[None]).logits


def test_an_adapter_is_taken_up_where_it_was_left(adapter: Path, small: Path) -> None:
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(small), adapter)
    frozen = load_adapter(AutoModelForCausalLM.from_pretrained(small), adapter)
    learning = load_adapter(AutoModelForCausalLM.from_pretrained(small), adapter, trainable=True)
    assert not list(frozen.trainable())
    assert adapted(learning) == {"q_proj", "k_proj", "v_proj"}
    for tuned in (frozen, learning):
        assert all(map(torch.equal, tuned.model.state_dict().values(), plain.state_dict().values()))
        assert torch.allclose(logits(tuned.model), logits(plain), rtol=1e-5, atol=1e-6)  # other order of sums


def test_an_adapter_with_values_that_are_not_finite_is_refused(adapter: Path, base: PreTrainedModel) -> None:
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    name = sorted(tensors)[3]
    tensors[name][0] = float("nan")
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(ModelError, match=f"{name} has values that are not finite"):
        load_adapter(base, adapter)


def test_an_adapter_for_other_modules_or_shapes_is_refused(adapter: Path, tmp_path: Path) -> None:
    wider = make_tiny(tmp_path / "wider", vocab_size=320, num_hidden_layers=2, hidden_size=64, head_dim=8)
    with pytest.raises(ModelError, match=r"does not fit this base model: .*size mismatch"):
        load_adapter(AutoModelForCausalLM.from_pretrained(wider), adapter)
    config = json.loads((adapter / "adapter_config.json").read_text()) | {"target_modules": ["c_attn"]}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="made for another base model: the model has no module 'c_attn'"):
        load_adapter(AutoModelForCausalLM.from_pretrained(wider), adapter)


def test_a_damaged_or_pickled_adapter_is_refused(adapter: Path, base: PreTrainedModel) -> None:
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ModelError, match="damaged"):
        load_adapter(base, adapter)
    file.unlink()
    with pytest.raises(ModelError, match=r"no adapter_model.safetensors"):
        load_adapter(base, adapter)
    torch.save(tensors, adapter / "adapter_model.bin")
    with pytest.raises(UntrustedContentError, match="pickled"):
        load_adapter(base, adapter)
    (adapter / "adapter_config.json").write_text("{")
    with pytest.raises(ModelError, match=r"adapter_config.json cannot be used"):
        load_adapter(base, adapter)


@pytest.mark.parametrize(
    "peft",
    [
        {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 3, "prefix_projection": True},
        {"peft_type": "P_TUNING", "num_virtual_tokens": 3},
    ],
)
def test_virtual_tokens_saved_without_their_network_talk_but_do_not_train(
    peft: dict[str, Any], small: Path, tmp_path: Path
) -> None:
    tuned = tune(AutoModelForCausalLM.from_pretrained(small), **peft)
    save_tuned(tuned, tmp_path)
    again = load_adapter(AutoModelForCausalLM.from_pretrained(small), tmp_path)
    torch.testing.assert_close(logits(again.model), logits(tuned.model), rtol=0, atol=1e-6)
    with pytest.raises(ModelError, match=r"cannot be trained further.*RESUME"):
        load_adapter(AutoModelForCausalLM.from_pretrained(small), tmp_path, trainable=True)


def test_a_kind_of_adapter_that_we_do_not_train_is_not_trained_further(
    adapter: Path, base: PreTrainedModel
) -> None:
    config = json.loads((adapter / "adapter_config.json").read_text())
    other = {"peft_type": "ADALORA", "total_step": 10, "target_modules": config["target_modules"]}
    (adapter / "adapter_config.json").write_text(json.dumps(other))
    with pytest.raises(ModelError, match="ADALORA cannot be trained further; LORA, IA3, PREFIX_TUNING"):
        load_adapter(base, adapter, trainable=True)


def test_an_adapter_of_plain_peft_is_one_of_ours(small: Path, tmp_path: Path) -> None:
    config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    theirs = get_peft_model(AutoModelForCausalLM.from_pretrained(small), config)
    theirs.save_pretrained(tmp_path)
    ours = load_adapter(AutoModelForCausalLM.from_pretrained(small), tmp_path)
    assert all(map(torch.equal, ours.model.state_dict().values(), theirs.state_dict().values()))
    assert torch.allclose(logits(ours.model), logits(theirs), rtol=1e-5, atol=1e-6)  # other order of sums


SMALLEST: dict[str, dict[str, Any]] = {
    "LORA": {"target_modules": ["q_proj"]},
    "IA3": {"target_modules": ["q_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
    "PREFIX_TUNING": {"num_virtual_tokens": 2},
    "P_TUNING": {"num_virtual_tokens": 2},
    "PROMPT_TUNING": {"num_virtual_tokens": 2},
}
CLASSES = {
    "LORA": "LoraConfig",
    "IA3": "IA3Config",
    "PREFIX_TUNING": "PrefixTuningConfig",
    "P_TUNING": "PromptEncoderConfig",
    "PROMPT_TUNING": "PromptTuningConfig",
}
FROM_THE_MODEL = {
    "token_dim",
    "num_transformer_submodules",
    "num_attention_heads",
    "num_layers",
    "tokenizer_name_or_path",
}


@pytest.mark.parametrize("kind", TUNINGS)
def test_what_a_run_records_is_what_peft_gets_whatever_the_defaults_of_its_version(
    kind: str, base: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuning = TUNING.validate_python({"peft_type": kind, **SMALLEST[kind]})
    recorded = tuning.model_dump(exclude=OURS_ALONE)
    options = {one.name for one in fields(getattr(room, CLASSES[kind]))} & all_options(tuning).keys()
    changed = [(one, Any, field(default_factory=lambda: pytest.fail("a default of peft's"))) for one in options]
    later = make_dataclass("Later", changed, bases=(getattr(room, CLASSES[kind]),), kw_only=True)
    monkeypatch.setattr(room, CLASSES[kind], later)
    got = peft_config(base, tuning)
    for key, value in recorded.items():
        found = getattr(got, key)
        value = set(value) if isinstance(found, set) else value
        assert found == value or (key in FROM_THE_MODEL and value is None), key


def test_an_option_that_an_older_peft_lacks_is_left_out_at_its_default_and_refused_elsewhere(
    base: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = [one.name for one in fields(room.PrefixTuningConfig) if one.name != "init_weights"]
    older = make_dataclass("Older", [(name, Any, None) for name in known])
    monkeypatch.setattr(room, "PrefixTuningConfig", older)
    prefix = {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 2}
    assert peft_config(base, TUNING.validate_python(prefix)).num_virtual_tokens == 2
    with pytest.raises(ConfigError, match=r"init_weights: peft .* has no such option"):
        peft_config(base, TUNING.validate_python(prefix | {"init_weights": "zero"}))
