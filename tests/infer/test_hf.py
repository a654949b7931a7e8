"""Generation: the same tokens alone and in a padded batch, for every kind of tuning, and no trace left."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig, get_peft_model
from transformers import GlmForCausalLM

from finetune.chat.load import load_template
from finetune.chat.messages import Conversation
from finetune.chat.template import ChatTemplate
from finetune.data.encode import Example, Prompt, encode
from finetune.errors import ConfigError, ModelError
from finetune.infer.engine import Completion, Sampling
from finetune.infer.hf import HFEngine
from finetune.model.attention import FLAT

PREFIX = {"task_type": "CAUSAL_LM", "num_virtual_tokens": 7, "num_attention_heads": 2, "token_dim": 32}
TUNINGS = {
    "none": None,
    "lora": LoraConfig(r=4, task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"]),
    "prefix": PrefixTuningConfig(**PREFIX),
    "projected prefix": PrefixTuningConfig(**PREFIX, prefix_projection=True, encoder_hidden_size=16),
    "prompt": PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5),
    "p-tuning": PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=5, encoder_hidden_size=16),
}
TEXTS = ["One and one?", "hi", "Where is the river? Where is the old mill? Tell me more of it.", "你好"]
GREEDY = Sampling(max_new_tokens=10)
DRAWN = Sampling(max_new_tokens=20, do_sample=True, temperature=3.0)  # shows differences that greedy hides


@pytest.fixture(scope="module")
def template(taught: Path) -> ChatTemplate:
    return load_template(taught)


@pytest.fixture(scope="module")
def prompts(template: ChatTemplate) -> list[Prompt]:
    return [Prompt(template.tokenizer.encode(text, add_special_tokens=True)) for text in TEXTS]


@pytest.fixture
def engine_of(taught: Path, template: ChatTemplate) -> Callable[[str], HFEngine]:
    def make(tuning: str) -> HFEngine:
        model = GlmForCausalLM.from_pretrained(taught)
        config = TUNINGS[tuning]
        if config is None:
            return HFEngine(model, template)
        tuned = get_peft_model(model, config)
        # Virtual words have to speak louder than the ones a taught model knows.
        scale = {"prompt": 30.0, "p-tuning": 4.0}.get(tuning, 0.4)
        generator = torch.Generator().manual_seed(3)
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.data = torch.randn(parameter.shape, generator=generator) * scale
        return HFEngine(tuned, template)

    return make


def by_hand(engine: HFEngine, prompt: Prompt, count: int) -> list[int]:
    """Greedy decoding through the model's own forward: no cache, no padding, no `generate`."""
    ids = list(prompt.ids)
    engine.model.eval()
    while len(ids) < len(prompt) + count:
        with torch.no_grad():
            logits = engine.model(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids))).logits
        ids.append(int(logits[0, -1].argmax()))
        if ids[-1] in engine.template.stop_ids:
            break
    return ids[len(prompt) :]


@pytest.mark.parametrize("tuning", TUNINGS)
def test_a_padded_batch_gives_the_tokens_that_each_prompt_gives_alone(
    tuning: str,
    engine_of: Callable[[str], HFEngine],
    prompts: list[Prompt],
    capsys: pytest.CaptureFixture[str],
) -> None:
    engine = engine_of(tuning)
    batched = engine.generate(prompts, GREEDY, batch_size=4)
    assert batched == [engine.generate([prompt], GREEDY)[0] for prompt in prompts]
    assert [completion.ids for completion in batched] == [by_hand(engine, prompt, 10) for prompt in prompts]
    assert "transformers' own loop" not in capsys.readouterr().err


def test_a_model_answers_as_taught_where_it_computes_in_less_than_it_keeps(
    engine_of: Callable[[str], HFEngine], known: list[Conversation], capsys: pytest.CaptureFixture[str]
) -> None:
    engine = engine_of("none")
    asked = [Prompt(engine.template.prompt(conversation.before(1))) for conversation in known]
    answers = engine.generate(asked, Sampling(max_new_tokens=40), 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert engine_of("none").generate(asked, Sampling(max_new_tokens=40), 2) == answers
    assert {answer.finish for answer in answers} == {"stop"}
    assert "transformers' own loop" not in capsys.readouterr().err


@pytest.mark.parametrize("tuning", [name for name in TUNINGS if name != "none"])
def test_without_its_adapter_a_model_answers_as_its_base(
    tuning: str, engine_of: Callable[[str], HFEngine], prompts: list[Prompt]
) -> None:
    engine, base = engine_of(tuning), engine_of("none").generate(prompts, DRAWN, 4)
    tuned = engine.generate(prompts, DRAWN, 4)
    assert tuned != base
    trains = [parameter.requires_grad for parameter in engine.model.parameters()]
    with engine.without_adapter():
        assert engine.generate(prompts, DRAWN, 4) == base
    assert engine.generate(prompts, DRAWN, 4) == tuned
    assert [parameter.requires_grad for parameter in engine.model.parameters()] == trains


def test_a_model_without_an_adapter_has_nothing_to_switch_off(engine_of: Callable[[str], HFEngine]) -> None:
    engine = engine_of("none")
    assert not engine.has_adapter
    assert engine_of("lora").has_adapter
    with engine.without_adapter():
        assert engine.generate([Prompt([1])], Sampling(max_new_tokens=1))


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(max_new_tokens=6, do_sample=True, temperature=2.0)])
def test_generation_leaves_no_trace_in_a_model_that_is_training(
    sampling: Sampling, engine_of: Callable[[str], HFEngine], prompts: list[Prompt]
) -> None:
    engine = engine_of("lora")
    engine.model.train()
    engine.model.get_base_model().model.norm.eval()
    engine.model.get_base_model().set_attn_implementation(FLAT)
    defaults = engine.model.get_base_model().generation_config
    modes = [module.training for module in engine.model.modules()]
    random = torch.random.get_rng_state()
    engine.generate(prompts, sampling, 2)
    "".join(engine.stream(prompts[0], sampling))
    assert torch.equal(torch.random.get_rng_state(), random)
    assert [module.training for module in engine.model.modules()] == modes
    assert engine.model.get_base_model().config._attn_implementation == FLAT
    assert engine.model.get_base_model().generation_config is defaults


def test_a_model_on_flat_attention_generates_what_it_does_on_stock_attention(
    engine_of: Callable[[str], HFEngine], prompts: list[Prompt]
) -> None:
    engine = engine_of("prefix")
    stock = engine.generate(prompts, GREEDY, 4)
    engine.model.get_base_model().set_attn_implementation(FLAT)
    assert engine.generate(prompts, GREEDY, 4) == stock


def test_a_completion_ends_with_its_stop_id_or_with_its_length(
    engine_of: Callable[[str], HFEngine], template: ChatTemplate
) -> None:
    from finetune.chat.messages import Conversation, Message

    prompt = Prompt(template.prompt(Conversation((Message("user", "One and one?"),))))
    engine = engine_of("none")
    [stopped] = engine.generate([prompt], Sampling(max_new_tokens=40))
    assert stopped.finish == "stop"
    assert stopped.ids[-1] in template.stop_ids
    assert not set(stopped.ids[:-1]) & set(template.stop_ids)
    assert engine.generate([prompt], Sampling(max_new_tokens=2)) == [Completion(stopped.ids[:2], "length")]


def test_a_checkpoints_own_generation_defaults_change_nothing(
    engine_of: Callable[[str], HFEngine], prompts: list[Prompt]
) -> None:
    engine = engine_of("none")
    plain = engine.generate(prompts, GREEDY, 4)
    engine.model.generation_config.update(
        do_sample=True, temperature=9.0, repetition_penalty=5.0, max_new_tokens=1, num_beams=2
    )
    assert engine.generate(prompts, GREEDY, 4) == plain


def test_the_same_seed_draws_the_same_and_another_seed_something_else(
    engine_of: Callable[[str], HFEngine], prompts: list[Prompt]
) -> None:
    engine = engine_of("none")
    draws = [
        engine.generate(prompts, Sampling(max_new_tokens=10, do_sample=True, temperature=3.0, seed=seed), 4)
        for seed in (1, 1, 2)
    ]
    assert draws[0] == draws[1]
    assert draws[1] != draws[2]


@pytest.mark.parametrize("tuning", ["none", "prefix", "prompt"])
def test_beams_are_the_same_alone_and_in_a_batch(
    tuning: str, engine_of: Callable[[str], HFEngine], prompts: list[Prompt]
) -> None:
    engine, beams = engine_of(tuning), Sampling(max_new_tokens=6, num_beams=3)
    assert engine.generate(prompts, beams, 4) == [engine.generate([p], beams)[0] for p in prompts]


@pytest.mark.parametrize("tuning", ["none", "lora", "prefix", "prompt"])
def test_streamed_pieces_put_together_are_the_generated_text(
    tuning: str, engine_of: Callable[[str], HFEngine], prompts: list[Prompt]
) -> None:
    engine = engine_of(tuning)
    for prompt in prompts:
        [whole] = engine.generate([prompt], GREEDY)
        assert "".join(engine.stream(prompt, GREEDY)) == engine.template.text(whole.ids)


def test_a_stream_that_nobody_reads_on_stops_and_frees_the_model(
    engine_of: Callable[[str], HFEngine], prompts: list[Prompt]
) -> None:
    import threading

    engine = engine_of("none")
    engine.model.train()
    pieces = engine.stream(prompts[2], Sampling(max_new_tokens=4000, do_sample=True, temperature=5.0))
    next(pieces)
    pieces.close()
    assert engine.model.training
    assert all(thread.name != "generation" for thread in threading.enumerate())


def test_an_error_while_streaming_reaches_the_reader(engine_of: Callable[[str], HFEngine]) -> None:
    with pytest.raises(ModelError, match="token 1000000: the model has embeddings for 0 to 639"):
        list(engine_of("none").stream(Prompt([10**6]), GREEDY))


def test_no_prompts_give_no_completions(engine_of: Callable[[str], HFEngine]) -> None:
    assert engine_of("none").generate([], GREEDY, 4) == []


@pytest.mark.parametrize("tuning", TUNINGS)
def test_the_loss_is_the_models_own_cross_entropy_over_the_supervised_tokens(
    tuning: str, engine_of: Callable[[str], HFEngine], template: ChatTemplate
) -> None:
    from finetune.chat.messages import Conversation, Message

    conversation = Conversation((Message("user", "Where?"), Message("assistant", "Behind the old mill.")))
    [example], _ = encode(conversation, template, max_length=512)
    engine = engine_of(tuning)
    labels = torch.tensor([example.input_ids.tolist()])
    labels[0, ~torch.from_numpy(example.loss_mask)] = -100
    engine.model.eval()
    with torch.no_grad():
        output = engine.model(input_ids=torch.tensor([example.input_ids.tolist()]), labels=labels)
    nats, tokens = engine.loss(example)
    assert tokens == example.loss_mask.sum()
    assert nats / tokens == pytest.approx(float(output.loss), rel=1e-4)


def test_a_beam_search_is_not_streamed(engine_of: Callable[[str], HFEngine]) -> None:
    with pytest.raises(ConfigError, match="cannot be streamed"):
        next(engine_of("none").stream(Prompt([1]), Sampling(num_beams=2)))


def test_a_token_without_an_embedding_is_refused_by_number(engine_of: Callable[[str], HFEngine]) -> None:
    engine = engine_of("none")
    with pytest.raises(ModelError, match=r"token 640: .* tokenizer"):
        engine.generate([Prompt([1, 640])], GREEDY, 1)
    with pytest.raises(ModelError, match=r"token 640: .* tokenizer"):
        engine.loss(Example(np.array([1, 640], dtype=np.int32), np.array([False, True])))


def test_a_seed_that_torch_cannot_take_is_refused() -> None:
    with pytest.raises(ConfigError, match="seed is 9223372036854775808; expected at least 0 and below 2"):
        Sampling(do_sample=True, seed=2**63)
