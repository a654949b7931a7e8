"""Pictures in flat batches: loss and gradients of transformers' own forward, one conversation at a time."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForImageTextToText

from finetune.chat.load import load_template
from finetune.chat.messages import Conversation, Image, Message
from finetune.chat.template import ChatTemplate
from finetune.config.tuning import LoraTuning, PrefixTuning, PromptTuning, PTuning, Tuning
from finetune.data.encode import Example, encode
from finetune.data.images.look import look
from finetune.data.images.picture import Picture
from finetune.errors import ConfigError, DataError, ModelError
from finetune.model.batch import collate
from finetune.model.head import SupervisedLoss
from finetune.model.layout import choose_layout, use_layout
from finetune.model.tuned import Tuned
from finetune.model.tuning import apply_tuning
from finetune.model.vision import Vision, tower_learns
from tests.seeing import FAMILIES, draw, make_seeing

LORA = LoraTuning(peft_type="LORA", r=4, target_modules="all-linear")
PREFIX = PrefixTuning(peft_type="PREFIX_TUNING", num_virtual_tokens=5)
METHODS: dict[str, tuple[Tuning | None, tuple[str, ...] | None]] = {
    "full": (None, None),
    "full, tower frozen": (None, ("tower",)),
    "lora on language": (LORA, None),
    "lora everywhere": (LORA, ()),
    "prefix": (PREFIX, None),
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("pictures")
    return [
        str(draw(folder / f"{n}.png", *size, seed=n)) for n, size in enumerate([(56, 28), (70, 90), (120, 30)])
    ]


@pytest.fixture(scope="module", params=FAMILIES)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_seeing(
        tmp_path_factory.mktemp(request.param) / request.param, request.param, initializer_range=0.15
    )


def conversations(pictures: list[str]) -> list[Conversation]:
    """With three pictures on two turns, none, one in the middle of a text, the same one twice."""

    def image(number: int, offset: int = 0) -> Image:
        return Image(pictures[number], offset=offset)

    return [
        Conversation(
            (
                Message("user", "What is it?", images=(image(0, 5),)),
                Message("assistant", "noise"),
                Message("user", "And these?", images=(image(1), image(2, 4))),
                Message("assistant", "more of it"),
            )
        ),
        Conversation((Message("user", "Hello"), Message("assistant", "you"))),
        Conversation((Message("user", "so  what", images=(image(1, 3),)), Message("assistant", "yes, it is"))),
        Conversation((Message("user", "same?", images=(image(2), image(2))), Message("assistant", "the same"))),
    ]


def examples(template: ChatTemplate, pictures: list[str]) -> list[Example]:
    return [encode(one, template, max_length=500)[0][0] for one in conversations(pictures)]


def loaded(checkpoint: Path, method: str) -> Tuned:
    base = AutoModelForImageTextToText.from_pretrained(checkpoint, attn_implementation="eager").eval()
    tuning, freeze = METHODS[method]
    tuned = apply_tuning(base, tuning, freeze=freeze)
    torch.manual_seed(1)
    for _, parameter in tuned.trainable():
        if tuned.kind != "full":
            parameter.data += 0.1 * torch.randn_like(parameter)  # away from adapters that start as no-ops
    return tuned


def stock_loss(tuned: Tuned, example: Example, vision: Vision) -> torch.Tensor:
    """The summed loss through the model's own forward, which finds the positions of pictures by itself."""
    ids = torch.from_numpy(example.input_ids.astype(np.int64))[None]
    given: dict[str, Any] = {"input_ids": ids, "use_cache": False}
    tuned.base.model.rope_deltas = None
    if example.pictures:
        patches, grids = vision.patches(example.pictures)
        kinds = (ids == vision.sight.token).int()
        given |= {"pixel_values": patches, "image_grid_thw": grids, "mm_token_type_ids": kinds}
    logits = tuned.base(**given).logits[0]
    rows = torch.from_numpy(np.flatnonzero(example.loss_mask))
    return cross_entropy(logits[rows - 1].float(), ids[0, rows], reduction="sum")


def gradients(tuned: Tuned, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    tuned.model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in tuned.trainable() if p.grad is not None}


def worst(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The largest difference of a tensor's gradient, relative to its length."""
    assert one.keys() == other.keys() and one
    return max(float((one[name] - other[name]).norm() / max(float(other[name].norm()), 1e-4)) for name in one)


@pytest.mark.parametrize("method", METHODS)
def test_flat_and_single_give_the_loss_and_gradients_of_transformers_own_forward(
    checkpoint: Path, method: str, pictures: list[str]
) -> None:
    template = load_template(checkpoint)
    tuned = loaded(checkpoint, method)
    vision = Vision(tuned.base, template.sight)
    together = examples(template, pictures)
    layout, why = choose_layout(tuned, "auto", 500)
    assert layout == "flat", why
    found = {}
    for layout, batches in (("flat", [together]), ("single", [[one] for one in together])):
        use_layout(tuned, layout)
        objective = SupervisedLoss(tuned, flat=layout == "flat").eval()
        loss = sum(objective(collate(batch, vision)) for batch in batches)
        found[layout] = float(loss.detach()), gradients(tuned, loss)
    if tuned.kind != "prefix":  # which transformers' forward knows nothing of
        tuned.base.set_attn_implementation("eager")
        loss = sum(stock_loss(tuned, one, vision) for one in together)
        found["stock"] = float(loss.detach()), gradients(tuned, loss)
    flat_loss, flat = found.pop("flat")
    for other_loss, other in found.values():
        assert flat_loss == pytest.approx(other_loss, rel=1e-5)
        assert worst(flat, other) <= 1e-5
    print(f"{checkpoint.name}, {method}: loss {flat_loss:.4f}, gradients {worst(flat, other):.1e} apart")


def test_another_picture_or_another_place_of_it_is_another_loss(checkpoint: Path, pictures: list[str]) -> None:
    """Else the test above could not fail."""
    template = load_template(checkpoint)
    tuned = loaded(checkpoint, "full")
    vision = Vision(tuned.base, template.sight)
    one = examples(template, pictures)[2]
    batch = collate([one], vision)
    other = look(Image(str(draw(Path(pictures[0]).parent / "other.png", 70, 90, seed=9))))
    use_layout(tuned, "flat")
    objective = SupervisedLoss(tuned, flat=True).eval()
    plain = torch.arange(len(one.input_ids)).expand(3, 1, -1)
    changed = {
        "picture": collate([Example(one.input_ids, one.loss_mask, (other,))], vision),
        "place": type(batch)(**{**vars_of(batch), "position_ids": plain}),
    }
    for what, different in changed.items():
        assert abs(float((objective(different) - objective(batch)).detach())) > 1e-3, what


def vars_of(batch: Any) -> dict[str, Any]:
    return {name: getattr(batch, name) for name in batch.__dataclass_fields__}


def test_the_positions_of_a_conversation_do_not_depend_on_its_neighbours(
    checkpoint: Path, pictures: list[str]
) -> None:
    template = load_template(checkpoint)
    vision = Vision(loaded(checkpoint, "full").base, template.sight)
    together = examples(template, pictures)
    whole = collate(together, vision)
    alone = [collate([one], vision).position_ids for one in together]
    alone = [one if one.dim() == 3 else one.expand(3, 1, -1) for one in alone]
    assert whole.position_ids.shape == (3, 1, whole.input_ids.shape[1])
    assert torch.equal(whole.position_ids, torch.cat(alone, dim=2))


@pytest.fixture(scope="module")
def glm4v(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_seeing(tmp_path_factory.mktemp("glm4v") / "glm4v")


def vision_of(glm4v: Path, budget: int = 2**20) -> Vision:
    base = AutoModelForImageTextToText.from_pretrained(glm4v)
    return Vision(base, load_template(glm4v).sight, budget)


def test_patches_are_kept_within_the_budget_and_the_least_lately_used_go_first(
    glm4v: Path, tmp_path: Path
) -> None:
    shown = [look(Image(str(draw(tmp_path / f"{n}.png", 56, 56, seed=n)))) for n in range(6)]
    size = 16 * 1176 * 4
    vision = vision_of(glm4v, budget=3 * size)
    for picture in shown:
        vision.patches([picture])
        vision.patches([shown[0]])
    assert list(vision._kept) == [shown[4].sha256, shown[5].sha256, shown[0].sha256]
    whole, grids = vision.patches(shown)  # more than the budget at once
    assert whole.shape == (6 * 16, 1176) and grids.tolist() == [[1, 4, 4]] * 6
    assert len(vision._kept) <= 3


def test_a_picture_at_hand_is_found_as_fast_among_many(glm4v: Path, tmp_path: Path) -> None:
    shown = [look(Image(str(draw(tmp_path / f"{n}.png", 28, 28, seed=n)))) for n in range(100)]
    vision = vision_of(glm4v, budget=2**23)
    vision.patches(shown[:1])
    alone = calls_of(lambda: vision.patches(shown[:1]))
    vision.patches(shown)
    assert calls_of(lambda: vision.patches(shown[:1])) == alone


def calls_of(work: Callable[[], object]) -> int:
    """How many Python functions are called."""
    calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(before)
    return calls


def test_pictures_are_made_ready_ahead_as_far_as_the_budget_goes(glm4v: Path, tmp_path: Path) -> None:
    shown = [look(Image(str(draw(tmp_path / f"{n}.png", 56, 56, seed=n)))) for n in range(4)]
    vision = vision_of(glm4v, budget=2 * 16 * 1176 * 4)
    vision.expect(shown)
    assert list(vision._kept) == [picture.sha256 for picture in shown[:2]]


def test_a_picture_that_changed_or_went_away_is_told_and_can_be_asked_for_again(
    glm4v: Path, tmp_path: Path
) -> None:
    path = draw(tmp_path / "a.png")
    kept, picture = path.read_bytes(), look(Image(str(path)))
    vision = vision_of(glm4v)
    draw(path, seed=7)
    with pytest.raises(DataError, match=r"a.png.*changed"):
        vision.patches([picture])
    path.unlink()
    with pytest.raises(DataError, match=r"a.png"):
        vision.patches([picture])
    path.write_bytes(kept)
    assert vision.patches([picture])[0].shape == (8, 1176)


def test_a_picture_that_the_processor_cuts_otherwise_than_it_was_counted_is_refused(
    glm4v: Path, tmp_path: Path
) -> None:
    found = look(Image(str(draw(tmp_path / "a.png", 56, 28))))
    with pytest.raises(ModelError, match=r"a.png: .* \(1, 2, 4\) patches, and it was counted as \(1, 4, 2\)"):
        vision_of(glm4v).patches([Picture(found.path, found.sha256, 28, 56)])


def test_examples_with_pictures_need_a_model_that_sees(glm4v: Path, pictures: list[str]) -> None:
    together = examples(load_template(glm4v), pictures)
    with pytest.raises(ModelError, match="the model sees none"):
        collate(together)


def test_a_batch_without_pictures_reaches_every_weight_of_a_tower_that_learns(
    glm4v: Path, pictures: list[str]
) -> None:
    template = load_template(glm4v)
    tuned = loaded(glm4v, "full")
    assert tower_learns(tuned.trainable())
    vision = Vision(tuned.base, template.sight)
    text_only = [examples(template, pictures)[1]]
    use_layout(tuned, "flat")
    plain = gradients(tuned, SupervisedLoss(tuned, flat=True)(collate(text_only, vision)))
    assert not any(".visual." in name for name in plain)
    looking = gradients(
        tuned, SupervisedLoss(tuned, flat=True, looks_always=vision)(collate(text_only, vision))
    )
    assert looking.keys() == dict(tuned.trainable()).keys()
    assert all(not gradient.any() for name, gradient in looking.items() if ".visual." in name)
    assert all(torch.equal(gradient, looking[name]) for name, gradient in plain.items())


def adapted(glm4v: Path, freeze: tuple[str, ...] | None, **changes: Any) -> set[str]:
    """Names of the modules that get an adapter."""
    base = AutoModelForImageTextToText.from_pretrained(glm4v)
    tuned = apply_tuning(
        base, LoraTuning(**({"peft_type": "LORA", "target_modules": "all-linear"} | changes)), freeze=freeze
    )
    names = {name.split(".lora_")[0].removeprefix("base_model.model.model.") for name, _ in tuned.trainable()}
    assert all(".lora_" in name for name, _ in tuned.trainable())
    return names


LAYER = {f"self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "o_proj")} | {
    "mlp.gate_up_proj",
    "mlp.down_proj",
}
LANGUAGE = {f"language_model.layers.{n}.{name}" for n in range(2) for name in LAYER}
BLOCK = {"attn.qkv", "attn.proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}
TOWER = {f"visual.blocks.{n}.{name}" for n in range(2) for name in BLOCK}
PROJECTOR = {f"visual.merger.{name}" for name in ("proj", "gate_proj", "up_proj", "down_proj")}


@pytest.mark.parametrize(
    ("freeze", "names"),
    [
        (None, LANGUAGE),
        (("vision",), LANGUAGE),
        (("tower",), LANGUAGE | PROJECTOR),
        (("projector",), LANGUAGE | TOWER),
        (("tower", "projector"), LANGUAGE),
        ((), LANGUAGE | TOWER | PROJECTOR),
    ],
)
def test_adapters_go_where_freeze_lets_them(
    glm4v: Path, freeze: tuple[str, ...] | None, names: set[str]
) -> None:
    assert adapted(glm4v, freeze) == names


def test_a_name_means_the_language_model_and_a_pattern_just_what_it_says(glm4v: Path) -> None:
    assert adapted(glm4v, None, target_modules=["down_proj"]) == {
        n for n in LANGUAGE if n.endswith("down_proj")
    }
    down = {name for name in LANGUAGE | TOWER | PROJECTOR if name.endswith("down_proj")}
    assert adapted(glm4v, (), target_modules=["down_proj"]) == down
    assert adapted(glm4v, None, target_modules=r".*visual.*qkv") == {n for n in TOWER if n.endswith("qkv")}
    assert adapted(glm4v, None, exclude_modules=["q_proj"]) == {n for n in LANGUAGE if not n.endswith("q_proj")}


def test_a_name_that_only_the_tower_has_tells_how_to_reach_it(glm4v: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"target_modules: 'qkv' is a module of the vision tower.*freeze: \[\]"
    ):
        adapted(glm4v, None, target_modules=["qkv"])


@pytest.mark.parametrize(
    ("freeze", "frozen"),
    [
        (("vision",), lambda name: ".visual." in name),
        (("projector",), lambda name: ".visual.merger" in name or ".visual.downsample" in name),
        (("tower",), lambda name: ".visual." in name and "merger" not in name and "downsample" not in name),
        (("embed_tokens",), lambda name: "embed_tokens" in name),
        ((), lambda name: False),
        (None, lambda name: False),
    ],
)
def test_full_fine_tuning_leaves_what_is_frozen(
    glm4v: Path, freeze: tuple[str, ...] | None, frozen: Any
) -> None:
    tuned = apply_tuning(AutoModelForImageTextToText.from_pretrained(glm4v), None, freeze=freeze)
    names = {name for name, _ in tuned.frozen()}
    assert names == {name for name, _ in tuned.model.named_parameters() if frozen(name)}


@pytest.mark.parametrize(
    "tuning",
    [
        PTuning(peft_type="P_TUNING", num_virtual_tokens=4),
        PromptTuning(peft_type="PROMPT_TUNING", num_virtual_tokens=4),
    ],
    ids=lambda tuning: tuning.peft_type,
)
def test_virtual_words_are_refused_for_a_model_that_sees(glm4v: Path, tuning: Tuning) -> None:
    base = AutoModelForImageTextToText.from_pretrained(glm4v)
    with pytest.raises(ConfigError, match=f"{tuning.peft_type} puts virtual words"):
        apply_tuning(base, tuning)
