"""Answers about pictures: the same, whichever loop writes them, whatever stands beside them in a batch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoImageProcessor, AutoModelForImageTextToText, GenerationConfig, PreTrainedModel

from finetune.chat.load import load_template
from finetune.chat.messages import Conversation, Image, Message
from finetune.chat.template import ChatTemplate
from finetune.config.tuning import PrefixTuning
from finetune.data.encode import Prompt, prompt_of
from finetune.data.images.pixels import pixels
from finetune.errors import ModelError
from finetune.infer.engine import Sampling
from finetune.infer.hf import HFEngine
from finetune.model.tuning import apply_tuning
from tests.seeing import draw, make_seeing

FAMILIES = ["glm4v", "glm4v_moe", "qwen2_5_vl", "qwen3_vl"]
CASES = [
    *(("glm4v", tuning) for tuning in ("none", "lora", "prefix")),
    ("glm4v_moe", "none"),
    *((family, tuning) for family in ("qwen2_5_vl", "qwen3_vl") for tuning in ("lora", "prefix")),
]
GREEDY = Sampling(max_new_tokens=6)
VIRTUAL = 3

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


@dataclass(frozen=True)
class Case:
    """A model of a family, its engine, and prompts with 0, 1 and 2 pictures, of different lengths."""

    engine: HFEngine
    folder: Path
    prompts: list[Prompt]

    @property
    def base(self) -> PreTrainedModel:
        model = self.engine.model
        return model.get_base_model() if isinstance(model, PeftModel) else model


def loud(folder: Path) -> PreTrainedModel:
    """The model with weights so large that positions and pictures matter; it never writes the image token."""
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data *= 12
    model.lm_head.weight.data[model.config.image_token_id] = 0
    return model


def tuned(model: PreTrainedModel, tuning: str) -> PreTrainedModel | PeftModel:
    if tuning == "none":
        return model
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj", "qkv"])
    made = get_peft_model(model, config) if tuning == "lora" else prefixed(model)
    generator = torch.Generator().manual_seed(3)
    for parameter in made.parameters():
        if parameter.requires_grad:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.5
    return made


def prefixed(model: PreTrainedModel) -> PeftModel:
    """P-Tuning v2 as a run makes it."""
    section = PrefixTuning(peft_type="PREFIX_TUNING", num_virtual_tokens=VIRTUAL)
    made = apply_tuning(model, section).model
    assert isinstance(made, PeftModel)
    return made


def asked(template: ChatTemplate, text: str, *pictures: Path) -> Prompt:
    images = tuple(Image(str(path), offset=min(3 * n, len(text))) for n, path in enumerate(pictures))
    return prompt_of(template, Conversation((Message("user", text, images=images),)))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    return [draw(folder / f"{n}.png", *size, n) for n, size in enumerate([(84, 56), (56, 112), (84, 56)])]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("families")
    return {family: make_seeing(place / family, family) for family in FAMILIES}


def case_of(folder: Path, tuning: str, pictures: Sequence[Path]) -> Case:
    template = load_template(folder)
    one, other, third = pictures
    prompts = [
        asked(template, "Hi"),
        asked(template, "What is this?", one),
        asked(template, "And how do these two differ?", other, third),
        asked(template, "Tell me something long about rivers, mills and bridges, please."),
        asked(template, "", other),
    ]
    return Case(HFEngine(tuned(loud(folder), tuning), template), folder, prompts)


def by_hand(case: Case, prompt: Prompt, **wrong: Any) -> list[int]:
    """Greedy decoding through the model's own forward: no cache, no padding, no `generate`."""
    ids, base, shown = list(prompt.ids), case.base, seen(case, prompt)
    virtual = VIRTUAL if case.engine._virtual_tokens()[0] == "prefix" else 0
    while len(ids) < len(prompt) + GREEDY.max_new_tokens:
        given: dict[str, Any] = {"input_ids": torch.tensor([ids]), **shown}
        given["position_ids"] = positions(case, ids, shown.get("image_grid_thw")) + virtual
        if virtual:
            given["past_key_values"] = case.engine.model.get_prompt(batch_size=1)
        with torch.no_grad():
            ids.append(int(base(**given | wrong_of(wrong, ids)).logits[0, -1].argmax()))
        if ids[-1] in case.engine.template.stop_ids:
            break
    return ids[len(prompt) :]


def wrong_of(wrong: dict[str, Any], ids: list[int]) -> dict[str, Any]:
    flat = {"position_ids": torch.arange(len(ids))[None]} if wrong.get("flat_positions") else {}
    return {**flat, **{name: value for name, value in wrong.items() if name != "flat_positions"}}


def seen(case: Case, prompt: Prompt) -> dict[str, torch.Tensor]:
    if not prompt.pictures:
        return {}
    processor = AutoImageProcessor.from_pretrained(case.folder, backend="pil")
    return dict(processor(images=[pixels(picture) for picture in prompt.pictures], return_tensors="pt"))


def kinds_of(case: Case, ids: torch.Tensor) -> torch.Tensor:
    return (ids == case.base.config.image_token_id).int()


def positions(case: Case, ids: list[int], grids: torch.Tensor | None) -> torch.Tensor:
    """(3, 1, T)."""
    row = torch.tensor([ids])
    found, _ = case.base.model.get_rope_index(row, mm_token_type_ids=kinds_of(case, row), image_grid_thw=grids)
    return found


@pytest.mark.parametrize(("family", "tuning"), CASES)
def test_every_loop_writes_the_tokens_of_the_models_own_forward(
    family: str, tuning: str, folders: dict[str, Path], pictures: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    case = case_of(folders[family], tuning, pictures)
    wanted = [by_hand(case, prompt) for prompt in case.prompts]
    assert answers(case.engine, case.prompts, 2) == wanted
    assert "transformers' own loop" not in capsys.readouterr().err
    texts = ["".join(case.engine.stream(prompt, GREEDY)) for prompt in case.prompts]
    assert texts == [case.engine.template.text(ids) for ids in wanted]
    case.engine._slots_fail = "a test wants transformers' own loop"  # type: ignore[misc]
    assert answers(case.engine, case.prompts, 3) == wanted
    assert len({tuple(ids) for ids in wanted}) >= 4


def test_an_image_token_that_is_written_is_no_picture_where_another_row_begins_with_one(
    folders: dict[str, Path], pictures: list[Path]
) -> None:
    case = case_of(folders["glm4v"], "none", pictures)
    text, view = case.prompts[3], case.prompts[1]
    assert len(text) > len(view)  # the longer one begins
    image, head = case.base.config.image_token_id, case.base.lm_head.weight.data
    first = answers(case.engine, [text], 1)[0][0]
    head[[first, image]] = head[[image, first]]
    alone = [answers(case.engine, [prompt], 1)[0] for prompt in (text, view)]
    assert alone[0][0] == image
    assert answers(case.engine, [text, view], 1) == alone


def answers(engine: HFEngine, prompts: Sequence[Prompt], batch_size: int) -> list[list[int]]:
    return [completion.ids for completion in engine.generate(prompts, GREEDY, batch_size)]


@pytest.mark.parametrize("family", FAMILIES)
def test_another_picture_or_other_positions_would_have_given_other_tokens(
    family: str, folders: dict[str, Path], pictures: list[Path]
) -> None:
    """Else the tests beside this one would prove nothing."""
    case = case_of(folders[family], "none", pictures)
    prompt, other = case.prompts[1], asked(case.engine.template, "What is this?", pictures[2])
    right = by_hand(case, prompt)
    assert prompt.ids == other.ids
    assert by_hand(case, other) != right
    assert by_hand(case, prompt, flat_positions=True) != right


@pytest.mark.parametrize("family", ["glm4v", "qwen3_vl"])
def test_beams_in_a_mixed_batch_are_those_of_each_prompt_alone(
    family: str, folders: dict[str, Path], pictures: list[Path]
) -> None:
    case = case_of(folders[family], "lora", pictures)
    rows = case.engine.generate(case.prompts, Sampling(max_new_tokens=5, num_beams=3), 5)
    stop_ids = list(case.engine.template.stop_ids)
    config = GenerationConfig(max_new_tokens=5, num_beams=3, eos_token_id=stop_ids, pad_token_id=0)
    for row, prompt in zip(rows, case.prompts, strict=True):
        ids = torch.tensor([prompt.ids])
        given = {**seen(case, prompt), "mm_token_type_ids": kinds_of(case, ids)} if prompt.pictures else {}
        case.base.model.rope_deltas = None
        alone = case.base.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config, **given)
        assert row.ids == alone[0, len(prompt) :].tolist()[: len(row.ids)]


@pytest.fixture
def one_process_group() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("one_process_group")
@pytest.mark.parametrize("tuning", ["none", "prefix"])
def test_processes_that_keep_step_write_the_same_with_and_without_pictures(
    tuning: str, folders: dict[str, Path], pictures: list[Path]
) -> None:
    case = case_of(folders["glm4v"], tuning, pictures)
    wanted = [by_hand(case, prompt) for prompt in case.prompts]
    engine = HFEngine(case.engine.model, case.engine.template, lockstep=True)
    assert answers(engine, case.prompts, 3) == wanted
    assert answers(engine, [case.prompts[0], case.prompts[3]], 2) == [wanted[0], wanted[3]]


@pytest.mark.parametrize("family", ["glm4v", "qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize("tuning", ["none", "prefix"])
def test_what_was_asked_before_does_not_matter(
    tuning: str, family: str, folders: dict[str, Path], pictures: list[Path]
) -> None:
    """transformers keeps the positions of the last pictures in the model."""
    case = case_of(folders[family], tuning, pictures)
    text, view = case.prompts[3], case.prompts[2]
    wanted = [case.engine.template.text(by_hand(case, prompt)) for prompt in (view, text, view)]
    assert ["".join(case.engine.stream(prompt, GREEDY)) for prompt in (view, text, view)] == wanted


@pytest.mark.parametrize("tuning", ["lora", "prefix"])
def test_without_its_adapter_a_model_sees_as_its_base(
    tuning: str, folders: dict[str, Path], pictures: list[Path]
) -> None:
    case = case_of(folders["glm4v"], tuning, pictures)
    base = answers(case_of(folders["glm4v"], "none", pictures).engine, case.prompts, 2)
    mine = answers(case.engine, case.prompts, 2)
    assert mine != base
    with case.engine.without_adapter():
        assert answers(case.engine, case.prompts, 2) == base
        texts = ["".join(case.engine.stream(prompt, GREEDY)) for prompt in case.prompts]
    assert texts == [case.engine.template.text(ids) for ids in base]
    assert answers(case.engine, case.prompts, 2) == mine


def test_a_model_of_text_that_is_asked_about_a_picture_says_so(
    taught: Path, folders: dict[str, Path], pictures: list[Path]
) -> None:
    from transformers import GlmForCausalLM

    engine = HFEngine(GlmForCausalLM.from_pretrained(taught), load_template(taught))
    view = asked(load_template(folders["glm4v"]), "What is this?", pictures[0])
    for ask in (lambda: engine.generate([view], GREEDY), lambda: list(engine.stream(view, GREEDY))):
        with pytest.raises(ModelError, match="GlmForCausalLM sees no pictures, and is asked about some"):
            ask()
