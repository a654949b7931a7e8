"""A stranger's checkpoint or adapter chooses neither the files that are read nor the code that computes."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from finetune.config.schema import ModelConfig
from finetune.errors import FinetuneError, ModelError, UntrustedContentError
from finetune.estimate.shape import read_shape
from finetune.model.foreign import choose_own_kernels
from finetune.model.load import load_base, read_model_config
from finetune.model.mapped import map_base
from finetune.model.tuning import load_adapter
from finetune.weights import is_plain

CPU = torch.device("cpu")

NAMES = {
    "model.safetensors": True,
    "model-00001-of-00002.safetensors": True,
    "../outside.safetensors": False,
    "../outside.bin": False,
    "/etc/passwd": False,
    "/tmp/x.safetensors": False,
    "below/model.safetensors": False,
    "./model.safetensors": False,
    "..\\outside.safetensors": False,
    "C:\\model.safetensors": False,
    "C:model.safetensors": False,
    "model.bin": False,
    "model.safetensors.bin": False,
    "model.safetensors\0.bin": False,
    "model.pt": False,
    ".safetensors/": False,
    "": False,
    "https://host/model.safetensors": False,
}


@pytest.mark.parametrize("name", NAMES, ids=map(repr, NAMES))
def test_a_weight_file_is_a_plain_name_of_a_safetensors_file(name: str) -> None:
    assert is_plain(name) is NAMES[name]
    assert not is_plain([name]) and not is_plain(None)


class Bomb:
    """Unpickled, it leaves a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.mark,))


@pytest.fixture
def folder(small: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small, tmp_path / "model"))


def says(folder: Path, **fields: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def index_of(folder: Path, name: object) -> None:
    weight_map = {"model.embed_tokens.weight": name, "lm_head.weight": "model.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


READERS: dict[str, Callable[[Path], object]] = {
    "loaded": lambda folder: load_base(folder, ModelConfig(), device=CPU),
    "mapped": lambda folder: map_base(str(folder), ModelConfig()),
    "estimated": read_shape,
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", ["../outside.bin", "../outside.safetensors", "model.bin", "sub/x.safetensors"])
def test_an_index_that_leads_elsewhere_is_refused_before_a_byte_of_it_is_read(
    reader: str, name: str, folder: Path, tmp_path: Path
) -> None:
    mark = tmp_path / "ran"
    for place in (folder / name, tmp_path / "outside.bin"):
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(pickle.dumps(Bomb(mark)))
    index_of(folder, name)
    with pytest.raises(UntrustedContentError, match="only safetensors files in the same folder"):
        READERS[reader](folder)
    assert not mark.exists()


ODD: dict[str, Callable[[Path], object]] = {
    "number": lambda folder: index_of(folder, 5),
    "list": lambda folder: index_of(folder, ["model.safetensors"]),
    "null": lambda folder: index_of(folder, None),
    "not JSON": lambda folder: (folder / "model.safetensors.index.json").write_text("{"),
    "deep": lambda folder: (folder / "model.safetensors.index.json").write_text("[" * 100_000),
    "a list at the top": lambda folder: (folder / "model.safetensors.index.json").write_text("[]"),
    "no map": lambda folder: (folder / "model.safetensors.index.json").write_text("{}"),
    "not there": lambda folder: index_of(folder, "model-00002.safetensors"),
    "other index": lambda folder: (folder / "x.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "../a.bin"}})
    ),
    "weights of its own": lambda folder: says(folder, transformers_weights="../a.safetensors"),
    "an index of its own": lambda folder: says(folder, transformers_weights="a.safetensors.index.json"),
    "an adapter beside": lambda folder: (folder / "adapter_config.json").write_text(
        '{"base_model_name_or_path": "/elsewhere"}'
    ),
}


@pytest.mark.parametrize("kind", ODD)
def test_what_else_is_odd_about_weight_files_is_refused_in_words(kind: str, folder: Path) -> None:
    ODD[kind](folder)
    with pytest.raises((ModelError, UntrustedContentError)):
        load_base(folder, ModelConfig(), device=CPU)


KERNELS: list[dict[str, Any]] = [
    {"attn_implementation": "someone/kernel"},
    {"_attn_implementation": "someone/kernel"},
    {"_attn_implementation_internal": "someone/kernel"},
    {"attn_implementation": "msa|someone/kernel@v1"},
    {"attn_implementation": "flash_attention_3"},
    {"attn_implementation": {"": "someone/kernel"}},
    {"experts_implementation": "someone/kernel"},
]


@pytest.mark.parametrize("fields", KERNELS, ids=map(str, KERNELS))
def test_a_kernel_that_config_json_names_is_never_asked_for(
    fields: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.integrations import hub_kernels

    def fetched(*arguments: object, **named: object) -> None:
        raise AssertionError(f"a kernel was asked for: {arguments}")

    monkeypatch.setattr(hub_kernels, "get_kernel", fetched)
    says(folder, **fields)
    model = load_base(folder, ModelConfig(), device=CPU)
    assert model.config._attn_implementation == "sdpa"


def test_nor_one_that_a_sub_config_names() -> None:
    shape = AutoConfig.for_model(
        "glm4v", text_config={"attn_implementation": "a/b"}, vision_config={"attn_implementation": "c/d"}
    )
    shape.text_config._attn_implementation_internal = "a/b"
    shape.vision_config._attn_implementation_internal = "c/d"
    choose_own_kernels(shape)
    parts = (shape, shape.text_config, shape.vision_config)
    assert [part._attn_implementation for part in parts] == [None, None, None]


QUANTIZED = [
    ({"quant_method": "gptq", "bits": 4}, "'gptq'"),
    ({"quant_method": "awq", "bits": 4}, "'awq'"),
    ({"quant_method": "fp8"}, "'fp8'"),
    ({"quant_method": "mxfp4"}, "'mxfp4'"),
    ({"quant_method": "somebody's"}, "somebody's"),
    ({"bits": 4}, "None"),
]


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize(("settings", "named"), QUANTIZED, ids=[named for _, named in QUANTIZED])
def test_a_quantization_without_its_code_is_refused_by_name(
    settings: dict[str, Any], named: str, inside: bool, folder: Path
) -> None:
    says(
        folder,
        **({"text_config": {"quantization_config": settings}} if inside else {"quantization_config": settings}),
    )
    with pytest.raises(ModelError, match=f"stored quantized by .*{named}.*full-precision"):
        read_model_config(folder, ModelConfig())


@pytest.mark.parametrize("model_type", ["glm", "nobody_knows"])
def test_code_of_a_checkpoint_does_not_run_without_permission(
    model_type: str, folder: Path, tmp_path: Path
) -> None:
    mark = tmp_path / "ran"
    for name in ("configuration_x.py", "modeling_x.py", "tokenization_x.py"):
        (folder / name).write_text(f"open({str(mark)!r}, 'w')\n")
    says(
        folder,
        model_type=model_type,
        auto_map={"AutoConfig": "configuration_x.C", "AutoModelForCausalLM": "modeling_x.M"},
    )
    try:
        load_base(folder, ModelConfig(), device=CPU)
    except UntrustedContentError:
        assert model_type == "nobody_knows"
    else:
        assert model_type == "glm"
    assert not mark.exists()


ADAPTERS: list[tuple[dict[str, Any], type[FinetuneError]]] = [
    ({"megatron_config": {"a": 1}, "megatron_core": "this"}, UntrustedContentError),
    ({"adapters": {"one": "../other"}}, UntrustedContentError),
    ({"prompt_tuning_init_state_dict_path": "x.bin"}, UntrustedContentError),
    ({"tokenizer_kwargs": {"trust_remote_code": True}}, UntrustedContentError),
    ({"peft_type": "NOBODY_KNOWS"}, ModelError),
]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory, small: Path) -> Path:
    folder = tmp_path_factory.mktemp("adapter")
    model = AutoModelForCausalLM.from_pretrained(small)
    get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(str(folder))
    return folder


@pytest.mark.parametrize(("fields", "kind"), ADAPTERS, ids=[next(iter(fields)) for fields, _ in ADAPTERS])
def test_an_adapter_names_nothing_to_import_or_to_load(
    fields: dict[str, Any], kind: type[FinetuneError], adapter: Path, small: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(adapter, tmp_path / "a"))
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | fields))
    with pytest.raises(kind):
        load_adapter(load_base(small, ModelConfig(), device=CPU), folder)


def test_an_adapter_whose_index_leads_elsewhere_is_refused(adapter: Path, small: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(adapter, tmp_path / "a"))
    index = {"weight_map": {"a": "../outside.bin"}}
    (folder / "adapter_model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UntrustedContentError):
        load_adapter(load_base(small, ModelConfig(), device=CPU), folder)
