"""Rows that come and go write what transformers' own loop writes to each prompt alone, whatever the family."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    Gemma2Config,
    GenerationConfig,
    Glm4Config,
    GlmConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3NextConfig,
)
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from finetune.chat.load import load_template
from finetune.chat.template import ChatTemplate
from finetune.data.encode import Prompt
from finetune.errors import ModelError
from finetune.infer.decode import Decoder, Virtual, rows_beside
from finetune.infer.engine import Sampling
from finetune.infer.hf import HFEngine
from finetune.infer.slots import SLOTS, why_no_slots

KIB, GIB = 2**10, 2**30
SHAPE: dict[str, Any] = {
    "vocab_size": 640,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "initializer_range": 0.3,  # answers of a flatter model are one token again and again
    "pad_token_id": 0,
    "eos_token_id": None,
    "bos_token_id": None,
}
IN_SLOTS: dict[str, PreTrainedConfig] = {
    "glm": GlmConfig(**SHAPE),
    "glm4": Glm4Config(**SHAPE),
    "llama": LlamaConfig(**SHAPE),
    "qwen2": Qwen2Config(**SHAPE),
    "mistral, a wide window": MistralConfig(**SHAPE, sliding_window=4096),
}
ELSEWHERE: dict[str, PreTrainedConfig] = {
    "mistral, a narrow window": MistralConfig(**SHAPE, sliding_window=40),
    "gemma2": Gemma2Config(**SHAPE, sliding_window=40),
    "qwen3-next": Qwen3NextConfig(
        **SHAPE,
        num_experts=0,
        linear_num_key_heads=2,
        linear_num_value_heads=2,
        linear_key_head_dim=16,
        linear_value_head_dim=16,
        layer_types=["linear_attention", "full_attention"],
    ),
}
PROMPTS = [Prompt([(7 * i + 11 * n) % 640 for i in range(n)]) for n in (3, 61, 1, 18, 70, 2, 9)]
LONGEST = 70 + 24
GREEDY = Sampling(max_new_tokens=24)


def tiny(config: PreTrainedConfig) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config).eval()
    return model


@pytest.fixture(scope="module")
def llama() -> PreTrainedModel:
    return tiny(IN_SLOTS["llama"])


@pytest.fixture(scope="module")
def template(taught: Path) -> ChatTemplate:
    return load_template(taught)


def alone(model: PreTrainedModel, sampling: Sampling, stop_ids: list[int], **more: Any) -> list[list[int]]:
    """What transformers' generate writes to each prompt by itself."""
    config = GenerationConfig(
        max_new_tokens=sampling.max_new_tokens, do_sample=False, eos_token_id=stop_ids, pad_token_id=0, **more
    )
    answers = []
    for prompt in PROMPTS:
        ids = torch.tensor([prompt.ids])
        row = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
        answers.append(row[0, len(prompt) :].tolist())
    return answers


def stops(model: PreTrainedModel) -> list[int]:
    """Two tokens that end some of the answers early, at different places, and not others."""
    endless = alone(model, GREEDY, [])
    return [endless[0][4], endless[3][15]]


@contextmanager
def on_slots(model: PreTrainedModel) -> Iterator[None]:
    model.set_attn_implementation(SLOTS)
    try:
        yield
    finally:
        model.set_attn_implementation("sdpa")


def written(
    model: PreTrainedModel,
    sampling: Sampling,
    stop_ids: list[int],
    rows: tuple[int, int],
    prompts: list[Prompt] = PROMPTS,
) -> list[list[int]]:
    """`rows`: at least, and at most, so many at once."""
    decoder = Decoder(model, Virtual(), sampling, stop_ids, *rows)
    with on_slots(model):
        return decoder.run(prompts, torch.device("cpu"), lambda n: None)


@contextmanager
def watched(model: PreTrainedModel, look: Callable[[dict[str, Any]], None]) -> Iterator[PreTrainedModel]:
    """Have `look` see the arguments of every forward."""
    handle = model.register_forward_pre_hook(lambda _, args, given: look(given), with_kwargs=True)
    try:
        yield model
    finally:
        handle.remove()


@pytest.mark.parametrize("family", IN_SLOTS)
def test_rows_that_come_and_go_write_what_each_prompt_gets_alone(family: str) -> None:
    model = tiny(IN_SLOTS[family])
    assert why_no_slots(model, LONGEST) is None
    stop_ids = stops(model)
    wanted = alone(model, GREEDY, stop_ids)
    for rows in ((1, 3), (3, 3), (2, 64)):
        assert written(model, GREEDY, stop_ids, rows) == wanted
    assert len({len(answer) for answer in wanted}) > 2


@pytest.mark.parametrize("family", ["glm", *ELSEWHERE])
def test_an_engine_writes_what_transformers_does_whatever_the_family(
    family: str, template: ChatTemplate
) -> None:
    model = tiny((IN_SLOTS | ELSEWHERE)[family])
    rows = HFEngine(model, template).generate(PROMPTS, GREEDY, batch_size=3)
    assert [row.ids for row in rows] == alone(model, GREEDY, list(template.stop_ids))


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("mistral, a narrow window", "sliding window of 40"),
        ("gemma2", "soft-caps"),
        ("qwen3-next", "does not take attention functions"),
    ],
)
def test_models_whose_layers_keep_something_else_are_left_to_transformers(family: str, reason: str) -> None:
    assert reason in str(why_no_slots(tiny(ELSEWHERE[family]), LONGEST))


def test_a_window_matters_only_where_the_text_is_longer() -> None:
    model = tiny(ELSEWHERE["mistral, a narrow window"])
    assert why_no_slots(model, 40) is None
    assert why_no_slots(model, 41) is not None


def test_a_model_that_slots_would_be_wrong_for_is_left_to_transformers(
    template: ChatTemplate, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing in this model's configuration says that it counts positions by itself."""
    model = tiny(IN_SLOTS["llama"])
    model.register_forward_pre_hook(
        lambda _, args, given: (args, given | {"position_ids": None}), with_kwargs=True
    )
    rows = HFEngine(model, template).generate(PROMPTS, GREEDY, batch_size=1)
    assert [row.ids for row in rows] == alone(model, GREEDY, list(template.stop_ids))
    assert "answers are written by transformers' own loop" in capsys.readouterr().err


def test_a_row_that_is_done_makes_place_at_once(llama: PreTrainedModel) -> None:
    stop_ids = stops(llama)
    lengths = [len(answer) for answer in alone(llama, GREEDY, stop_ids)]
    steps: list[int] = []
    with watched(llama, lambda given: steps.append(len(given["logits_to_keep"]))):
        written(llama, GREEDY, stop_ids, (2, 2))
    assert max(steps) == 2
    assert sum(steps) == sum(lengths)
    assert len(steps) <= sum(lengths) / 2 + GREEDY.max_new_tokens / 2


def test_no_step_takes_more_tokens_of_prompts_than_the_longest_of_a_batch_have(
    llama: PreTrainedModel,
) -> None:
    prompts = [Prompt([n] * 20) for n in range(1, 8)]
    tokens: list[int] = []
    with watched(llama, lambda given: tokens.append(given["input_ids"].numel())) as model:
        written(model, GREEDY, [], (2, 64), prompts)
    assert tokens[:5] == [2 * 20, 2 + 2 * 20, 4 + 2 * 20, 6 + 20, 7]


@pytest.mark.parametrize(
    ("weights", "row", "rows"),
    [
        (18 * GIB, 1024 * 40 * KIB, 115),  # GLM-4-9B in bfloat16: 2 heads of keys in each of 40 layers
        (13 * GIB, 1024 * 512 * KIB, 6),  # Llama-2-7B: 32 heads in each of 32
        (115 * 2**20, 600 * 4 * KIB, 218),  # so small that half a gibibyte does not matter
    ],
)
def test_rows_are_as_many_as_are_little_beside_the_weights(weights: int, row: int, rows: int) -> None:
    assert rows_beside(weights, row) == rows


def test_rows_that_prove_too_many_begin_anew_in_the_batch_size(llama: PreTrainedModel) -> None:
    rows: list[int] = []

    def run_out(given: dict[str, Any]) -> None:
        rows.append(len(given["logits_to_keep"]))
        if rows[-1] > 2:
            raise torch.OutOfMemoryError

    stop_ids = stops(llama)
    with watched(llama, run_out):
        answers = written(llama, GREEDY, stop_ids, (2, 64))
    assert answers == alone(llama, GREEDY, stop_ids)
    assert sum(count > 2 for count in rows) == 1


def test_memory_that_runs_out_at_the_batch_size_is_said(template: ChatTemplate) -> None:
    model = tiny(IN_SLOTS["llama"])
    engine = HFEngine(model, template)
    engine.generate([Prompt([1])], Sampling(max_new_tokens=1))

    def run_out(given: dict[str, Any]) -> None:
        raise torch.OutOfMemoryError

    with watched(model, run_out), pytest.raises(ModelError, match="answering 3 prompts of up to 70 tokens"):
        engine.generate(PROMPTS, GREEDY, batch_size=3)


def test_a_repetition_costs_what_it_does_in_transformers(llama: PreTrainedModel) -> None:
    """Without padding: there, transformers counts the pad token as said."""
    sampling = Sampling(max_new_tokens=24, repetition_penalty=1.7)
    answers = written(llama, sampling, [], (3, 3))
    assert answers == alone(llama, sampling, [], repetition_penalty=1.7)
    assert answers != alone(llama, sampling, [])


def test_what_is_drawn_for_a_prompt_does_not_depend_on_its_batch(llama: PreTrainedModel) -> None:
    sampling = Sampling(max_new_tokens=30, do_sample=True, temperature=2.0, top_p=0.9, top_k=50, seed=3)
    stop_ids = stops(llama)
    assert written(llama, sampling, stop_ids, (1, 1)) == written(llama, sampling, stop_ids, (4, 64))


def test_attention_over_slots_is_refused_where_there_are_none(llama: PreTrainedModel) -> None:
    with on_slots(llama), pytest.raises(RuntimeError, match="needs the slots"):
        llama(input_ids=torch.tensor([[1, 2]]))
