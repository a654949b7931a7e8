"""Every way to tune trains end to end: the loss falls, a resume is exact, the checkpoint loads elsewhere."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune.config.tuning import OURS_ALONE
from finetune.errors import CheckpointError, ConfigError, ModelError
from finetune.eval.command import evaluate_file
from finetune.model.tiny import make_tiny
from finetune.train.run import train
from tests.tiers import by_tier
from tests.train.conftest import LORA, PREFIX, WORDS, Configure
from tests.train.test_run import run_json, state

DOWN = {"target_modules": ["query_key_value", "dense_4h_to_h"], "feedforward_modules": ["dense_4h_to_h"]}
METHODS: dict[str, dict[str, Any]] = {
    "dora": LORA | {"use_dora": True},
    "rslora": LORA | {"use_rslora": True},
    "all linear": LORA | {"target_modules": "all-linear"},
    "orthogonal": LORA | {"init_lora_weights": "orthogonal"},
    "bias": LORA | {"bias": "all"},
    "head": LORA | {"modules_to_save": ["output_layer"]},
    "tokens": LORA | {"trainable_token_indices": [198, 313]},
    "prefix": {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 4},
    "prefix and head": PREFIX | {"modules_to_save": ["lm_head"]},
    "p-tuning": {"peft_type": "P_TUNING", "num_virtual_tokens": 4, "token_dim": 4096},
    "prompt": {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4},
    "ia3": {"peft_type": "IA3", **DOWN},
}
SINGLE = ("p-tuning", "prompt")
EVERY_ROW = {"per_device_train_batch_size": 12, "gradient_accumulation_steps": 1}
SHORT = {**EVERY_ROW, "max_steps": 4, "save_steps": 2, "learning_rate": 0.03}


def losses(output: Path) -> list[float]:
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def check_run(small: Path, data: Path, config: Path, overrides: tuple[str, ...] = ()) -> Path:
    """Train, go on once more from the middle, evaluate what was saved; returns the run folder."""
    output = train(data, str(small), config, overrides=overrides)
    assert losses(output)[-1] < losses(output)[0]
    straight = state(output / "checkpoint-4")
    train(data, str(small), config, resume="2", overrides=overrides)
    assert state(output / "checkpoint-4") == straight
    return output


def loss_elsewhere(output: Path, data: Path, **options: Any) -> float:
    report = evaluate_file(str(output), str(data / "dev.jsonl"), output=output / "eval", limit=4, **options)
    assert report.loss is not None
    return report.loss.value


@pytest.mark.parametrize(
    "method", by_tier(METHODS, ["dora", "all linear", "head", "tokens", "prefix and head", "p-tuning"])
)
def test_a_method_trains_resumes_and_loads(method: str, small: Path, data: Path, configure: Configure) -> None:
    output = check_run(small, data, configure(METHODS[method], **SHORT))
    run = run_json(output)
    assert run["plan"]["layout"] == ("single" if method in SINGLE else "flat")
    assert loss_elsewhere(output, data) == pytest.approx(run["result"]["evaluation"]["loss"], rel=1e-6)
    check_record(run, json.loads((output / "checkpoint-4" / "adapter_config.json").read_text()))


FOUND_IN_THE_MODEL = {"target_modules", "feedforward_modules", "modules_to_save", "token_dim"}
"""Names that are mapped to the architecture's, and a shape that is corrected."""


def check_record(run: dict[str, Any], saved: dict[str, Any]) -> None:
    """What run.json says was asked, what it says peft got, and what the checkpoint holds are one thing."""
    effective = run["effective"]["peft_config"]
    for key, asked in run["config"]["peft_config"].items():
        if key in OURS_ALONE:
            continue
        assert effective[key] == asked or asked is None or key in FOUND_IN_THE_MODEL, key
    inexact = {"inference_mode"}  # peft's own word for: this is not training
    of_files = {key: value for key, value in saved.items() if key not in inexact}
    assert of_files == {key: effective[key] for key in of_files}


@pytest.fixture
def bfloat16(small: Path, tmp_path: Path) -> Path:
    """The small model, stored in bfloat16."""
    folder = tmp_path / "bfloat16"
    AutoModelForCausalLM.from_pretrained(small, dtype=torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(small).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "method", by_tier(["bias", "head", "tokens", "prefix and head", "ia3"], ["bias", "ia3"])
)
def test_a_method_trains_on_a_bfloat16_base(
    method: str, bfloat16: Path, data: Path, configure: Configure
) -> None:
    output = check_run(bfloat16, data, configure(METHODS[method], **SHORT), ("model_config.dtype=bfloat16",))
    assert loss_elsewhere(output, data) == pytest.approx(
        run_json(output)["result"]["evaluation"]["loss"], rel=1e-3
    )


@pytest.mark.parametrize("kind", by_tier(["nf4", "int8"], ["nf4"]))
def test_lora_trains_on_a_quantized_base(
    kind: str, small: Path, data: Path, configure: Configure, capfd: pytest.CaptureFixture[str]
) -> None:
    output = check_run(small, data, configure(LORA, **SHORT), (f"model_config.quantization={kind}",))
    assert "MatMul8bitLt" not in capfd.readouterr().err
    trained = run_json(output)["result"]["evaluation"]["loss"]
    assert loss_elsewhere(output, data, quantization=kind) == pytest.approx(trained, rel=1e-6)
    assert loss_elsewhere(output, data) == pytest.approx(trained, rel=1e-2)


@pytest.mark.parametrize("method", ["prompt", "prefix"])
def test_neftune_trains_with_virtual_tokens(method: str, small: Path, data: Path, configure: Configure) -> None:
    output = train(data, str(small), configure(METHODS[method], neftune_noise_alpha=5, max_steps=2))
    assert len(losses(output)) == 2


def test_an_adapter_is_continued_where_it_was_left(small: Path, data: Path, configure: Configure) -> None:
    first = train(data, str(small), configure(LORA | {"lora_dropout": 0.0}, "first", **SHORT))
    continued = [f"model_config.adapter={first / 'checkpoint-4'}"]
    second = train(data, str(small), configure(None, "second", **SHORT), overrides=continued)
    assert losses(second)[0] < losses(first)[-1]
    saved = json.loads((second / "checkpoint-4" / "adapter_config.json").read_text())
    assert (saved["r"], saved["base_model_name_or_path"]) == (4, str(small))


def test_an_adapter_to_continue_is_looked_at_before_the_data(
    small: Path, data: Path, configure: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = train(data, str(small), configure(LORA, "first", max_steps=1))
    shape = {"num_hidden_layers": 2, "hidden_size": 32, "head_dim": 8, "intermediate_size": 48}
    other = make_tiny(tmp_path / "other", WORDS, seed=1, vocab_size=320, **shape)
    capsys.readouterr()

    def continued(adapter: Path, base: Path) -> None:
        train(data, str(base), configure(None, "second"), overrides=[f"model_config.adapter={adapter}"])

    checkpoint = first / "checkpoint-1"
    with pytest.raises(ModelError, match="checkpoint-1: was trained on a base with other weights"):
        continued(checkpoint, other)
    with pytest.raises(ModelError, match="a run; give one of its checkpoints"):
        continued(first, small)
    with pytest.raises(ModelError, match="no adapter folder"):
        continued(tmp_path / "nothing", small)
    weights = checkpoint / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(CheckpointError, match="adapter_model"):
        continued(checkpoint, small)
    assert "rows" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("peft", "said"),
    [
        ({"peft_type": "ADALORA", "target_modules": ["q_proj"]}, r"ADALORA cannot be trained here.*use LORA"),
        (LORA | {"layer_replication": [[0, 2], [0, 2]]}, "layer_replication: .*a deeper model is another base"),
        (LORA | {"init_lora_weights": "pissa"}, "pissa needs other base weights.*use orthogonal"),
        (LORA | {"init_lora_weights": "olora"}, "olora needs other base weights"),
        (LORA | {"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4 needs other base weights"),
        (LORA | {"init_lora_weights": "mica"}, "mica needs a frozen half"),
    ],
)
def test_what_could_not_be_exact_is_refused_by_name(
    peft: dict[str, Any], said: str, small: Path, data: Path, configure: Configure
) -> None:
    with pytest.raises(ConfigError, match=said):
        train(data, str(small), configure(peft))
