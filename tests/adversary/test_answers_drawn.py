"""Sampling: what is drawn depends on (seed, conversation, turn, position) and on nothing beside it.

In float32 on tiny models. Logits that differ by rounding between batch sizes are another matter: they change a
token only where its number falls within the rounding of a border between two tokens.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from peft import PromptTuningConfig, get_peft_model
from transformers import GlmForCausalLM, MistralConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from finetune.chat.load import load_template
from finetune.chat.messages import Conversation
from finetune.data.dataset import Sample
from finetune.data.encode import Prompt, prompt_of
from finetune.eval.evaluate import evaluate
from finetune.infer.batch import generate_file
from finetune.infer.engine import AnswerNumber, Sampling
from finetune.infer.hf import HFEngine
from finetune.serve.terminal import chat
from tests.tiers import by_tier

GREEDY = Sampling(max_new_tokens=12)
DRAWN = Sampling(max_new_tokens=12, do_sample=True, temperature=3.0, seed=5)
SAMPLINGS = {
    "greedy": GREEDY,
    "greedy, repetitions cost": Sampling(max_new_tokens=12, repetition_penalty=1.3),
    "drawn": DRAWN,
    "drawn, top_k": Sampling(max_new_tokens=12, do_sample=True, temperature=3.0, top_k=20),
    "drawn, top_p": Sampling(max_new_tokens=12, do_sample=True, temperature=3.0, top_p=0.7, seed=2**63 - 1),
    "drawn, repetitions cost": Sampling(
        max_new_tokens=12, do_sample=True, temperature=2.0, repetition_penalty=1.3
    ),
}
BEAMS = Sampling(max_new_tokens=6, do_sample=True, num_beams=2, temperature=3.0)


def narrow_window(taught: Path) -> PreTrainedModel:
    """Left to transformers' own loop, on padded batches."""
    config = MistralConfig(
        vocab_size=640,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        initializer_range=0.3,
        sliding_window=8,
    )
    torch.manual_seed(1)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    return model


MODELS: dict[str, Callable[[Path], PreTrainedModel]] = {
    "rows in slots": GlmForCausalLM.from_pretrained,
    "padded batches": narrow_window,
}


@pytest.fixture(scope="module", params=MODELS)
def engine(request: pytest.FixtureRequest, taught: Path) -> HFEngine:
    return HFEngine(MODELS[request.param](taught), load_template(taught))


@pytest.fixture(scope="module")
def talker(taught: Path) -> HFEngine:
    return HFEngine(GlmForCausalLM.from_pretrained(taught), load_template(taught))


@pytest.fixture(scope="module")
def samples(known: Sequence[Conversation]) -> list[Sample]:
    asked = [conversation.before(1) for conversation in known] * 3
    return [Sample(conversation, f"in.jsonl:{line}") for line, conversation in enumerate(asked, start=1)]


@pytest.fixture(scope="module")
def prompts(talker: HFEngine, samples: list[Sample]) -> list[Prompt]:
    return [prompt_of(talker.template, sample.conversation) for sample in samples]


@pytest.mark.parametrize(
    "sampling",
    by_tier(SAMPLINGS.values(), [SAMPLINGS[name] for name in ("greedy, repetitions cost", "drawn, top_p")]),
    ids=SAMPLINGS,
)
def test_an_answer_is_the_same_alone_in_any_batch_and_as_a_stream(
    sampling: Sampling, engine: HFEngine, prompts: list[Prompt]
) -> None:
    numbers = [AnswerNumber(i, 1) for i in range(len(prompts))]
    together = engine.generate(prompts, sampling, 8, numbers)
    for size in (1, 5):
        assert engine.generate(prompts, sampling, size, numbers) == together
    backwards = engine.generate(prompts[::-1], sampling, 3, numbers[::-1])
    assert backwards[::-1] == together
    streamed = ["".join(engine.stream(*one)) for one in zip(prompts, [sampling] * 12, numbers, strict=True)]
    assert streamed == [engine.template.text(one.ids) for one in together]
    same_question = [together[i].ids for i in range(0, 12, 4)]
    assert (len({tuple(ids) for ids in same_question}) == 1) is (not sampling.do_sample)


@pytest.mark.parametrize("virtual", [False, True])
def test_beams_that_draw_are_the_same_alone_and_in_a_batch(
    virtual: bool, taught: Path, prompts: list[Prompt]
) -> None:
    model = GlmForCausalLM.from_pretrained(taught)
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    engine = HFEngine(get_peft_model(model, config) if virtual else model, load_template(taught))
    together = engine.generate(prompts[:6], BEAMS, 4)
    alone = [engine.generate([prompts[i]], BEAMS, 1, [AnswerNumber(i)])[0] for i in range(6)]
    assert together == alone


@pytest.mark.parametrize("sampling", [GREEDY, DRAWN], ids=["greedy", "drawn"])
@pytest.mark.parametrize("first_size", [1, 8])
@pytest.mark.parametrize("lines", by_tier([0, 1, 5, 8, 11], [1, 8]))
def test_generate_writes_the_same_file_whatever_the_batch_and_wherever_it_goes_on(
    lines: int, first_size: int, sampling: Sampling, talker: HFEngine, samples: list[Sample], tmp_path: Path
) -> None:
    def answered(output: Path, size: int) -> bytes:
        generate_file(
            lambda: talker,
            samples,
            output,
            sampling=sampling,
            batch_size=size,
            author={"model": "taught"},
        )
        return output.read_bytes()

    whole = answered(tmp_path / "whole.jsonl", first_size)
    stopped = tmp_path / "stopped.jsonl"
    stopped.write_bytes(b"".join(whole.splitlines(keepends=True)[:lines]))
    assert answered(stopped, 9 - first_size) == whole


@pytest.mark.parametrize("sampling", [GREEDY, DRAWN], ids=["greedy", "drawn"])
def test_eval_writes_the_same_predictions_whatever_the_batch_and_whatever_is_left_out(
    sampling: Sampling, talker: HFEngine, known: list[Conversation], tmp_path: Path
) -> None:
    samples = [Sample(conversation, f"dev.jsonl:{line}") for line, conversation in enumerate(known, start=1)]

    def predicted(size: int, **options: object) -> dict[tuple[str, int], str]:
        path = tmp_path / "predictions.jsonl"
        evaluate(
            talker,
            samples,
            sampling=sampling,
            batch_size=size,
            predictions_path=path,
            **options,  # type: ignore[arg-type]
        )
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return {(row["origin"], row["turn"]): row["prediction"] for row in rows}

    all_turns = predicted(8)
    assert len(all_turns) == 5
    assert predicted(1) == all_turns
    for fewer in (predicted(8, turns="last"), predicted(2, max_input_length=40)):
        assert 0 < len(fewer) < 5
        assert fewer.items() <= all_turns.items()


def test_chat_says_what_generate_writes_and_draws_anew_for_its_next_answer(
    talker: HFEngine, samples: list[Sample], prompts: list[Prompt], capsys: pytest.CaptureFixture[str]
) -> None:
    lines = iter(["Where is the river?", "Where is the river?", None])
    chat(talker, DRAWN, read=lambda _: next(lines))
    said = capsys.readouterr().out
    [wanted] = talker.generate([prompts[1]], DRAWN, 1, [AnswerNumber(0, 1)])
    assert said.startswith(talker.template.text(wanted.ids).lstrip())
