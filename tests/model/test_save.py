"""What is written loads elsewhere: a whole model in plain transformers, an adapter in plain peft."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from pydantic import TypeAdapter
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from finetune.config.tuning import Tuning
from finetune.data.encode import Example
from finetune.model.attention import FLAT
from finetune.model.batch import collate
from finetune.model.head import SupervisedLoss
from finetune.model.save import save_tuned, state_stops
from finetune.model.tuned import Tuned
from finetune.model.tuning import apply_tuning
from tests.train.conftest import LORA, PREFIX

TUNING: TypeAdapter[Tuning] = TypeAdapter(Tuning)
IDS = torch.arange(3, 43)


def train(tuned: Tuned, steps: int = 2) -> Tuned:
    """So many steps on one conversation, with a rate at which everything moves."""
    tuned.base.set_attn_implementation(FLAT if tuned.kind != "prompt" else "sdpa")
    objective = SupervisedLoss(tuned, flat=tuned.kind != "prompt")
    optimizer = torch.optim.AdamW([parameter for _, parameter in tuned.trainable()], lr=1e-2)
    batch = collate([Example(IDS.numpy().astype("int32"), (IDS > 0).numpy())])
    for _ in range(steps):
        with torch.autocast("cpu", dtype=tuned.base_dtype, enabled=tuned.mixed):
            objective(batch).backward()
        optimizer.step()
        optimizer.zero_grad()
    tuned.base.set_attn_implementation("sdpa")
    return tuned


def logits(model: PreTrainedModel | PeftModel) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS[None]).logits.float()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_whole_model_is_saved_in_its_base_s_dtype_and_is_plain_transformers(
    dtype: torch.dtype, small: Path, tmp_path: Path
) -> None:
    tuned = train(apply_tuning(AutoModelForCausalLM.from_pretrained(small, dtype=dtype), None))
    assert {parameter.dtype for parameter in tuned.model.parameters()} == {torch.float32}
    save_tuned(tuned, tmp_path)
    assert {tensor.dtype for tensor in load_file(tmp_path / "model.safetensors").values()} == {dtype}
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert again.dtype == dtype
    expected = AutoModelForCausalLM.from_pretrained(small, dtype=dtype)
    expected.load_state_dict(tuned.model.state_dict())
    assert torch.equal(logits(again), logits(expected))


BESIDES = {
    "dora": {"use_dora": True},
    "rslora": {"use_rslora": True},
    "bias": {"bias": "all"},
    "lora bias": {"lora_bias": True},
    "head and embeddings": {"modules_to_save": ["lm_head", "embed_tokens"]},
    "tokens": {"trainable_token_indices": [5, 6]},
    "ranks": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": 3}},
    "one layer": {"layers_to_transform": [1]},
    "an expert's parameter": {"target_modules": [], "target_parameters": ["mlp.down_proj.weight"]},
    "embeddings": {"target_modules": ["embed_tokens", "lm_head"]},
    "block-diagonal": {
        "target_modules": ["q_proj"],
        "use_bdlora": {"nblocks": 2, "target_modules_bd_a": ["q_proj"]},
    },
}
PLAIN = {name: value for name, value in LORA.items() if name != "lora_dropout"}
KINDS: dict[str, dict[str, Any]] = {
    **{
        f"lora {start}": PLAIN | {"init_lora_weights": start}
        for start in (True, False, "gaussian", "orthogonal")
    },
    **{f"lora with {name}": PLAIN | options for name, options in BESIDES.items()},
    "prefix": {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 4},
    "projected prefix": PREFIX,
    "prompt": {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4},
    "p-tuning": {"peft_type": "P_TUNING", "num_virtual_tokens": 4},
    "p-tuning with an LSTM": {
        "peft_type": "P_TUNING",
        "num_virtual_tokens": 4,
        "encoder_reparameterization_type": "LSTM",
    },
    "ia3": {
        "peft_type": "IA3",
        "target_modules": ["query_key_value", "dense_4h_to_h"],
        "feedforward_modules": ["dense_4h_to_h"],
    },
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_says_the_same_on_the_original_base_in_plain_peft(
    kind: str, small: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    tuned = train(
        apply_tuning(AutoModelForCausalLM.from_pretrained(small), TUNING.validate_python(KINDS[kind]))
    )
    save_tuned(tuned, tmp_path)
    base = AutoModelForCausalLM.from_pretrained(small)
    untuned = logits(base)
    again = logits(PeftModel.from_pretrained(base, tmp_path))
    assert not torch.equal(again, untuned)
    torch.testing.assert_close(again, logits(tuned.model), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["lora with bias", "lora with head and embeddings"])
def test_parts_of_a_bfloat16_base_that_learn_do_so_in_float32(kind: str, small: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(small, dtype=torch.bfloat16)
    tuned = apply_tuning(base, TUNING.validate_python(KINDS[kind]))
    assert tuned.mixed
    before = {name: parameter.clone() for name, parameter in tuned.trainable()}
    train(tuned)
    assert all(parameter.dtype == torch.float32 for _, parameter in tuned.trainable())
    assert any(not torch.equal(parameter, before[name]) for name, parameter in tuned.trainable())


def test_an_adapter_folder_holds_nothing_to_run_and_no_empty_form(small: Path, tmp_path: Path) -> None:
    save_tuned(
        apply_tuning(AutoModelForCausalLM.from_pretrained(small), TUNING.validate_python(PLAIN)), tmp_path
    )
    assert {path.name for path in tmp_path.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            {"eos_token_id": 2, "temperature": 0.5},
            {"eos_token_id": [7, 2], "pad_token_id": 3, "temperature": 0.5},
        ),
        ({"eos_token_id": [2, 7, 9]}, {"eos_token_id": [2, 7, 9]}),
        ({}, {"eos_token_id": [7, 2], "pad_token_id": 3}),
        (None, {"eos_token_id": [7, 2], "pad_token_id": 3}),
    ],
)
def test_a_whole_model_stops_where_its_template_ends_a_turn(
    before: dict[str, Any] | None, after: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "generation_config.json"
    if before is not None:
        file.write_text(json.dumps(before))
    state_stops(tmp_path, [7, 2], 3)
    assert json.loads(file.read_text()) == after
