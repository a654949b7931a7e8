"""A model that sees is merged with its tower, proves itself with pictures, and does as its card says."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from transformers import (
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    PreTrainedModel,
)

from finetune.chat.load import load_template
from finetune.chat.messages import Conversation, Image, Message
from finetune.data.encode import Prompt, prompt_of
from finetune.data.images.pixels import pixels
from finetune.errors import ModelError
from finetune.export import merge as merging
from finetune.export.merge import merge
from finetune.export.prompts import proof_prompts
from finetune.export.proof import logits_of
from finetune.model.tiny import make_tiny
from tests.export.adapters import save_moved
from tests.export.cards import run_card
from tests.seeing import draw, make_seeing

FAMILIES = ["glm4v", "glm46v", "glm4v_moe", "qwen2_5_vl", "qwen3_vl"]
TOWER = r".*visual\.(blocks|merger).*(qkv|proj|linear_fc1|mlp\.0)"
LANGUAGE = r".*language_model.*(q_proj|v_proj)"

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_seeing(tmp_path_factory.mktemp("seeing") / "base")


def save_adapter(base: Path, folder: Path, targets: str, size: float = 0.2) -> Path:
    """A LoRA on the modules that match, away from its neutral start."""
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=targets)
    return save_moved(AutoModelForImageTextToText.from_pretrained(base), config, folder, size)


@pytest.fixture(scope="module")
def adapter(base: Path) -> Path:
    return save_adapter(base, base.parent / "adapter", f"{TOWER}|{LANGUAGE}")


@pytest.fixture(scope="module")
def merged(adapter: Path) -> merging.Merged:
    return merge(str(adapter), adapter.parent / "merged")


def weights_of(folder: Path) -> Mapping[str, torch.Tensor]:
    return AutoModelForImageTextToText.from_pretrained(folder).state_dict()


@pytest.mark.parametrize("family", FAMILIES)
def test_tower_projector_and_language_model_are_merged(family: str, tmp_path: Path) -> None:
    base = make_seeing(tmp_path / "base", family)
    done = merge(str(save_adapter(base, tmp_path / "adapter", f"{TOWER}|{LANGUAGE}")), tmp_path / "merged")
    before, after = weights_of(base), weights_of(done.output)
    changed = {name.rpartition(".layers.")[0] or name for name in before if not before[name].equal(after[name])}
    parts = ("model.visual.blocks.1.", "model.visual.merger.", "model.language_model")
    assert all(any(name.startswith(part) for name in changed) for part in parts)
    assert (done.proof.prompts, done.proof.seeing) == (8, 3)


def test_the_proof_says_how_many_of_its_prompts_have_pictures(merged: merging.Merged) -> None:
    assert "8 prompts (3 with pictures), " in merged.lines()[1]
    assert "8 prompts (3 with pictures), " in (merged.output / "README.md").read_text()


def test_what_the_merged_folder_needs_to_see_comes_along(merged: merging.Merged, base: Path) -> None:
    name = "preprocessor_config.json"
    assert (merged.output / name).read_bytes() == (base / name).read_bytes()
    AutoTokenizer.from_pretrained(merged.output)
    AutoImageProcessor.from_pretrained(merged.output, backend="pil")
    assert load_template(merged.output).sight == load_template(base).sight


def test_an_adapter_in_the_tower_alone_is_proved_by_the_pictures(base: Path, tmp_path: Path) -> None:
    folder = save_adapter(base, tmp_path / "adapter", TOWER)
    assert merge(str(folder), tmp_path / "merged").proof.change > 0.01


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_a_merge_that_forgets_the_tower_is_noticed(
    dtype: str | None, base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, old = merging.write_model, weights_of(base)

    def forget(model: torch.nn.Module, *rest: object) -> None:
        for name, parameter in model.named_parameters():
            if ".visual." in name:
                parameter.data = old[name].to(parameter.dtype)
        real(model, *rest)

    monkeypatch.setattr(merging, "write_model", forget)
    with pytest.raises(ModelError, match="does not say what base"):
        merge(str(adapter), tmp_path / "merged", dtype)
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize("target", ["bfloat16", "float32"])
def test_a_bfloat16_base_merges_into_either(target: str, tmp_path: Path) -> None:
    base = make_seeing(tmp_path / "base", dtype=torch.bfloat16)
    folder = save_adapter(base, tmp_path / "adapter", f"{TOWER}|{LANGUAGE}")
    done = merge(str(folder), tmp_path / "merged", target)
    assert json.loads((done.output / "config.json").read_text())["dtype"] == target


def test_weights_that_in_and_output_share_stay_shared(tmp_path: Path) -> None:
    base = make_seeing(tmp_path / "base", "qwen2_5_vl")
    model = AutoModelForImageTextToText.from_pretrained(base)
    model.config.tie_word_embeddings = model.config.text_config.tie_word_embeddings = True
    model.tie_weights()
    model.save_pretrained(base)
    done = merge(str(save_adapter(base, tmp_path / "adapter", LANGUAGE)), tmp_path / "merged")
    again = AutoModelForImageTextToText.from_pretrained(done.output)
    assert again.lm_head.weight is again.model.language_model.embed_tokens.weight


@pytest.fixture(scope="module")
def model(base: Path) -> PreTrainedModel:
    return AutoModelForImageTextToText.from_pretrained(base).eval()


@pytest.fixture
def about_two(base: Path, tmp_path: Path) -> Prompt:
    images = tuple(Image(str(draw(tmp_path / f"{i}.png", 84, 56, i))) for i in range(2))
    return prompt_of(load_template(base), Conversation((Message("user", "Which is which?", images=images),)))


def test_prompts_with_pictures_are_asked_as_the_model_itself_places_them(
    base: Path, model: PreTrainedModel, about_two: Prompt
) -> None:
    template = load_template(base)
    text = Prompt(template.prompt(Conversation((Message("user", "Hello?"),))))
    said = logits_of(model, [text, about_two, text], template.sight)
    processor = AutoImageProcessor.from_pretrained(base, backend="pil")
    pictures = processor(images=[pixels(picture) for picture in about_two.pictures], return_tensors="pt")
    pictures["pixel_values"] = pictures["pixel_values"].bfloat16().float()
    ids = torch.tensor([about_two.ids])
    kinds = (ids == template.sight.token).int()
    with torch.no_grad():
        own = model(input_ids=ids, mm_token_type_ids=kinds, **pictures).logits[0, -64:]
        one_by_one = model(input_ids=ids, position_ids=torch.arange(ids.shape[1])[None], **pictures).logits[0]
    torch.testing.assert_close(said[1], own, rtol=0, atol=1e-6)
    assert not torch.allclose(said[1], one_by_one[-64:], atol=1e-4)
    assert torch.equal(said[0], said[2])


@pytest.mark.parametrize("family", ["glm4v", "qwen2_5_vl", "qwen3_vl"])
def test_a_bfloat16_tower_says_what_its_float32_copy_says(family: str, tmp_path: Path) -> None:
    base = make_seeing(tmp_path / "base", family, dtype=torch.bfloat16)
    template = load_template(base)
    model = AutoModelForImageTextToText.from_pretrained(base, dtype=torch.bfloat16).eval()
    prompts = [prompt for prompt in proof_prompts(template, None) if prompt.pictures]
    ours = logits_of(model, prompts, template.sight)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    wide = logits_of(model.float(), prompts, template.sight)
    for one, other in zip(ours, wide, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-6)


def test_a_model_of_text_cannot_be_asked_about_pictures(about_two: Prompt, tmp_path: Path) -> None:
    shape = {"num_hidden_layers": 1, "hidden_size": 32, "head_dim": 8, "intermediate_size": 48}
    blind = AutoModelForCausalLM.from_pretrained(make_tiny(tmp_path / "blind", **shape))
    with pytest.raises(ModelError, match="sees no pictures"):
        logits_of(blind, [about_two], None)


@pytest.fixture
def run(base: Path, tmp_path: Path) -> Callable[..., list[Prompt]]:
    """The prompts that a run's predictions add to the fixed ones; a row: the paths of its images, and text."""
    template = load_template(base)

    def own(*rows: tuple[list[Path], str]) -> list[Prompt]:
        lines = []
        for paths, text in rows:
            images = tuple(Image(str(path)) for path in paths)
            prompt = template.prompt_text(Conversation((Message("user", text, images=images),)))
            named = {"images": [str(path) for path in paths]} if paths else {}
            lines.append(json.dumps({"prompt": prompt, **named, "reference": "A house."}))
        (tmp_path / "predictions.jsonl").write_text("\n".join(lines))
        return proof_prompts(template, tmp_path)[len(proof_prompts(template, None)) :]

    return own


def test_a_runs_own_predictions_join_with_their_pictures(
    run: Callable[..., list[Prompt]], base: Path, tmp_path: Path
) -> None:
    file = draw(tmp_path / "house.png", 84, 56)
    with_one, without = run(([file], "What is it?"), ([], "Hello?"))
    assert [picture.path for picture in with_one.pictures] == [str(file)]
    sight = load_template(base).sight
    assert with_one.ids.count(sight.token) == sight.tokens(84, 56)
    assert not without.pictures


def test_predictions_whose_pictures_cannot_be_shown_are_passed_over(
    run: Callable[..., list[Prompt]], tmp_path: Path
) -> None:
    there, gone = draw(tmp_path / "there.png"), tmp_path / "gone.png"
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(there.read_bytes()[:60])
    rows = [([gone], "a"), ([there, gone], "b"), ([damaged], "c"), ([there], "d" * 1200)]
    assert run(*rows) == []
    assert [len(prompt.pictures) for prompt in run(*rows, ([there], "e"), *[([], "f")] * 9)] == [1, 0, 0, 0]


def test_the_code_on_the_card_answers(
    merged: merging.Merged, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (merged.output / "README.md").read_text()
    assert '\npipeline_tag: "image-text-to-text"\n' in text
    said = []
    for seed in (0, 1):
        draw(merged.output.parent / "picture.png", 84, 56, seed)
        said.append(run_card(merged.output, text, monkeypatch, capsys))
    assert said[0] and said[1] and said[0] != said[1]
