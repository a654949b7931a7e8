"""What may be a base model, and what is refused, before anything is trained on it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from finetune.chat.load import load_template
from finetune.config.schema import ModelConfig
from finetune.errors import ModelError, UntrustedContentError
from finetune.model.load import load_base

CPU = torch.device("cpu")
REMOTE = {"AutoConfig": "configuration_chatglm.ChatGLMConfig", "AutoModelForCausalLM": "modeling_chatglm.X"}

Change = Callable[[Path], object]


def load(model: str | Path, **config: Any) -> PreTrainedModel:
    return load_base(model, ModelConfig(**config), device=CPU)


def says(**fields: object) -> Change:
    """config.json with other fields."""

    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return change


def holds(file: str, content: bytes) -> Change:
    return lambda folder: (folder / file).write_bytes(content)


def without(file: str) -> Change:
    return lambda folder: (folder / file).unlink()


def weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Change:
    """model.safetensors with other content."""

    def rewrite(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    return rewrite


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def half(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def test_a_model_comes_as_it_is_stored_in_evaluation_mode(small: Path) -> None:
    model = load(small)
    assert not model.training
    assert model.dtype == torch.float32
    assert load_base(small, ModelConfig(), device=CPU, dtype=torch.bfloat16).dtype == torch.bfloat16


REFUSED: dict[str, tuple[Change, str]] = {
    "no config": (without("config.json"), "no config.json; MODEL is a folder with a transformers checkpoint"),
    "config is no JSON": (holds("config.json", b"{"), r"config\.json:1:2: damaged: Expecting"),
    "config is a list": (holds("config.json", b"[]"), "damaged: not a JSON object"),
    "config with a wrong value": (says(hidden_size="many"), "cannot be used: .*hidden_size.*'many'"),
    "no model type": (says(model_type=None), "model_type None is no causal language model"),
    "a vision model": (says(model_type="clip"), "model_type 'clip' is no causal language model of text"),
    "an encoder-decoder": (says(model_type="t5"), "model_type 't5' is no causal language model"),
    "no weights": (without("model.safetensors"), "no file named model.safetensors"),
    "a weight is missing": (
        weights(lambda tensors: tensors.pop("model.norm.weight")),
        "missing weights: model.norm.weight; the checkpoint is incomplete",
    ),
    "a layer is missing": (says(num_hidden_layers=3), r"missing weights: model.layers.2\..* and 8 more"),
    "a weight of another shape": (
        weights(lambda tensors: tensors.update({"model.norm.weight": torch.ones(5)})),
        r"another shape than config.json says: model.norm.weight \[5\] instead of \[32\]",
    ),
    "a NaN": (
        weights(lambda tensors: tensors["model.layers.1.mlp.down_proj.weight"].view(-1)[7:9].fill_(torch.nan)),
        r"not finite \(NaN or infinite\): model.layers.1.mlp.down_proj.weight \(2 of 1,536\); the checkpoint",
    ),
    "infinite embeddings": (
        weights(lambda tensors: tensors["model.embed_tokens.weight"].fill_(-torch.inf)),
        r"model.embed_tokens.weight \(10,240 of 10,240\)",
    ),
    "half a weight file": (half, "a weight file is damaged: .*incomplete metadata"),
    "a weight file of nothing": (holds("model.safetensors", b""), "a weight file is damaged"),
    "a weight file of noise": (holds("model.safetensors", b"noise " * 50), "a weight file is damaged"),
}


@pytest.mark.parametrize("problem", REFUSED)
def test_what_is_no_whole_model_is_refused(problem: str, small: Path, tmp_path: Path) -> None:
    change, message = REFUSED[problem]
    folder = shutil.copytree(small, tmp_path / "model")
    change(folder)
    with pytest.raises(ModelError, match=message) as refused:
        load(folder)
    assert str(refused.value).startswith((f"{folder}: ", f"{folder}/"))


@pytest.mark.parametrize("name", ["nothing", "a/b/c", "/nowhere/model"])
def test_a_name_that_is_no_folder_and_no_hub_id_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match=f"{name}: no such folder; .* or a Hub id"):
        load(name)


def test_a_file_is_no_model(small: Path) -> None:
    with pytest.raises(ModelError, match="a file, not a folder"):
        load(small / "config.json")


def test_code_of_a_checkpoint_is_never_run_unasked(small: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(small, tmp_path / "chatglm")
    says(model_type="chatglm", auto_map=REMOTE)(folder)
    (folder / "configuration_chatglm.py").write_text("raise SystemExit('ran')\n")
    with pytest.raises(UntrustedContentError, match=r"glm-4-9b-chat-hf.*trust_remote_code: true") as refused:
        load(folder)
    assert refused.value.exit_code == 6


@pytest.mark.parametrize("trusted", [False, True])
def test_the_old_glm_4v_9b_is_refused_by_name_whether_its_code_is_trusted_or_not(
    small: Path, tmp_path: Path, trusted: bool
) -> None:
    folder = shutil.copytree(small, tmp_path / "old")
    says(model_type="chatglm", auto_map=REMOTE, vision_config={"image_size": 1120})(folder)
    (folder / "configuration_chatglm.py").write_text("raise SystemExit('ran')\n")
    (folder / "tokenizer.json").unlink()
    settings = {"auto_map": {"AutoTokenizer": ["tokenization_chatglm.ChatGLM4Tokenizer", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    way_out = r"old: is a glm-4v-9b,.*GLM-4\.1V-9B-Thinking or GLM-4\.6V-Flash.*docs/glm-4v-9b\.md"
    with pytest.raises(ModelError, match=way_out):
        load(folder, trust_remote_code=trusted)
    with pytest.raises(ModelError, match=way_out):
        load_template(folder, trust_remote_code=trusted)  # what a run asks for first
    assert Path("docs/glm-4v-9b.md").is_file()


def test_a_native_class_is_taken_even_where_the_checkpoint_offers_code(small: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(small, tmp_path / "model")
    says(auto_map=REMOTE)(folder)
    assert type(load(folder)).__module__.startswith("transformers.")


def test_pickled_weights_are_not_opened(small: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(small, tmp_path / "model")
    pickled(folder)
    with pytest.raises(UntrustedContentError, match=r"pickled.*safetensors") as refused:
        load(folder)
    assert refused.value.exit_code == 6


def test_weights_that_no_layer_takes_are_told(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(small, tmp_path / "model")
    says(num_hidden_layers=1)(folder)
    load(folder)
    said = capsys.readouterr().err
    assert "no part of the model, and are left out: model.layers.1." in said
    assert len(said.splitlines()) == 1


def test_the_largest_numbers_that_a_dtype_has_are_no_damage(small: Path, tmp_path: Path) -> None:
    """Their sum is infinite."""
    folder = shutil.copytree(small, tmp_path / "model")
    largest = torch.finfo(torch.float32).max
    weights(lambda tensors: tensors["model.norm.weight"].fill_(largest))(folder)
    assert float(load(folder).model.norm.weight.detach().max()) == largest


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_a_nan_is_found_also_where_quantizing_hides_it(quantization: str, small: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    folder = shutil.copytree(small, tmp_path / "model")
    name = "model.layers.0.self_attn.q_proj.weight"
    weights(lambda tensors: tensors[name].view(-1)[3:4].fill_(torch.nan))(folder)
    with pytest.raises(ModelError, match=rf"{name} \(1 of 1,024\)"):
        load(folder, quantization=quantization)


def test_a_nan_is_found_in_a_model_that_is_to_be_taken_apart(small: Path, tmp_path: Path) -> None:
    from finetune.model.mapped import map_base

    folder = shutil.copytree(small, tmp_path / "model")
    weights(lambda tensors: tensors["model.norm.weight"][:1].fill_(torch.nan))(folder)
    with pytest.raises(ModelError, match=r"model.norm.weight \(1 of 32\)"):
        map_base(str(folder), ModelConfig())


@pytest.mark.parametrize(("kind", "layer"), [("nf4", "Linear4bit"), ("int8", "Linear8bitLt")])
def test_a_base_is_quantized_on_the_cpu_too(kind: str, layer: str, small: Path) -> None:
    quantized, whole = load(small, quantization=kind), AutoModelForCausalLM.from_pretrained(small)
    assert type(quantized.model.layers[0].mlp.down_proj).__name__ == layer
    ids = torch.arange(12)[None]
    with torch.no_grad():
        difference = (quantized(ids).logits - whole(ids).logits).norm() / whole(ids).logits.norm()
    assert 0 < float(difference) < 0.2
